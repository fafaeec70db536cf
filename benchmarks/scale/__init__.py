"""The parts of ``benchmarks/fleet_scale.py``: a broker of its own, bare consoles beside ours, and what is measured."""
