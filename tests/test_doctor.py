"""Doctor: it finds what is there, names what is missing with the command, and loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

from lissom import doctor
from lissom.doctor import Diagnosis, Finding, diagnose
from lissom.measure.machine import machine


def found_by_name(findings):
    return {finding.name: finding for finding in findings}


def test_every_needed_package_is_listed_with_its_version():
    packages = found_by_name(diagnose().packages)
    for name in ("lissom", "torch", "numpy", "onnxruntime", "pyyaml"):
        assert packages[name].value == metadata.version(name)
        assert packages[name].ok


def test_extras_come_from_the_package_and_leave_the_developers_tools_out():
    extras = found_by_name(diagnose().extras)
    assert "pillow" in extras
    assert "mypy" not in extras


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    wanted = ["nosuchpackage>=1", "nosuchextra>=2; extra == 'images'", "nosuchtool; extra == 'dev'"]
    diagnosis = diagnose(wanted)
    assert not diagnosis.healthy
    assert found_by_name(diagnosis.packages)["nosuchpackage"] == Finding(
        "nosuchpackage", "missing", ok=False, remedy="pip install 'nosuchpackage'"
    )
    assert diagnosis.extras == (
        Finding("nosuchextra", "missing", ok=False, remedy="pip install 'lissom[images]'  (reads folders of images)"),
    )


def test_a_missing_extra_is_no_illness():
    missing = Finding("openvino", "missing", ok=False, remedy="pip install openvino")
    assert Diagnosis(packages=(), extras=(missing,), runtimes=(missing,), instructions=(), machine=()).healthy


def test_runtimes_that_are_here_have_versions():
    runtimes = found_by_name(diagnose().runtimes)
    assert runtimes["onnxruntime"].value == metadata.version("onnxruntime")
    assert all(runtime.ok or runtime.remedy.startswith("pip install ") for runtime in runtimes.values())


def test_int8_without_vnni_is_warned_of():
    def verdict(**sets):
        return list(doctor._instructions(sets))[-1]

    assert verdict(avx2=True, avx512_vnni=True).value == "fast"
    assert verdict(avx2=True, avx512f=True, avx_vnni=False).value == "emulated"
    assert "saturate" in verdict(avx2=True).remedy


def test_machine_facts_are_those_that_results_hold():
    facts = found_by_name(diagnose().machine)
    assert facts["cpu"].value == machine()["cpu"]
    assert facts["cores"].value == str(machine()["cores"])


def test_json_and_sections_hold_the_same_findings():
    diagnosis = diagnose()
    content = json.loads(json.dumps(diagnosis.to_dict()))
    assert content["healthy"] is True
    listed = [row[0] for _, rows in diagnosis.sections() for row in rows]
    assert listed == [finding["name"] for section in content.values() if isinstance(section, list) for finding in section]


def test_looking_loads_nothing_heavy():
    code = "import sys; from lissom.doctor import diagnose; diagnose(); print([m for m in ('torch', 'onnxruntime', 'onnx', 'numba') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
