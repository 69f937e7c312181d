"""Sweeps: which tasks there are (points, plan), what has become of them (manifest, folders), who does them (work)."""
