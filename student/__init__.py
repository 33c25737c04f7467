"""Distillation of a teacher's policy and critic into students of a few layers."""
