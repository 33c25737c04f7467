"""The commands of `pipeline`, their options, and how they answer."""
