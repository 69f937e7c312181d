"""The command `itm`: one module for every verb, and what the verbs share.

Nothing is imported here, so that `itm --help` stays quick.
"""
