"""The files that a run leaves behind, by name."""

RESULTS_FILE = "results.json"
REPORT_FILE, REPORT_PICTURE = "report.html", "report.png"
CURVE_FILE, CURVE_PICTURE = "learning_curve.json", "learning_curve.png"
