"""Certificates on texts whose distributions are known: how often they are right."""
