"""What a user can look at: report, learning curve, indexes, examples, files for other evaluation tools."""
