"""Training: fine-tuning and distillation, through any edit."""
