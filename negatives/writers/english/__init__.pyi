from .rules import RuleWriter as RuleWriter
