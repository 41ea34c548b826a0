"""Markup: text is escaped wherever it is put, and what is written is XML as well as HTML."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.report.markup import UNWRITABLE, Markup, joined, tag

any_text = st.text(st.characters(codec=None, exclude_categories=()))


@settings(deadline=None, derandomize=True)
@given(any_text, any_text)
def test_any_text_comes_back_from_a_parser(text, attribute):
    written = tag("p", text, title=attribute)
    element = ElementTree.fromstring(written)
    assert (element.text or "") == UNWRITABLE.sub("\ufffd", text).replace("\r\n", "\n").replace("\r", "\n")
    assert len(element) == 0
    assert set(element.keys()) == {"title"}


def test_a_lone_surrogate_can_be_written_as_utf8():
    assert tag("p", "\ud800").encode("utf-8") == "<p>\ufffd</p>".encode()


def test_markup_is_not_escaped_again():
    assert tag("p", tag("b", "1 < 2")) == "<p><b>1 &lt; 2</b></p>"
    assert joined(Markup("<br/>"), "<br/>") == "<br/>&lt;br/&gt;"


def test_attribute_names_and_missing_attributes():
    assert tag("line", x1=1.23456, stroke_width=2, class_="a", id=None) == '<line x1="1.23" stroke-width="2" class="a"></line>'


def test_void_elements_have_no_end():
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8"/>'
