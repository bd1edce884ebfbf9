"""Sentences about expressions: templates, descriptions, captions."""
