"""The report of a machine with an NVIDIA GPU, in parts that run alone (tools/gpu_report.py)."""
