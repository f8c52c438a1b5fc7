"""Measuring this project: its engines by themselves (micro.py), and beside other programs (the rest).

Nothing here trains, and nothing of the project imports this but task=benchmark and scripts/.
"""
