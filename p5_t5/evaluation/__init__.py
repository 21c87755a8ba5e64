"""How answers are judged: metrics, the evaluator that applies them, and the audit beside them.

``metrics`` holds pure functions, ``faces`` the same numbers as ``evaluate.Metric`` objects.
Nothing is imported here: ``evaluate`` alone takes seconds, and only ``faces`` needs it.
"""
