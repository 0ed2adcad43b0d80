"""The paper on tensors alone: schedule, mask, edit flows, caches, and the plain reference."""
