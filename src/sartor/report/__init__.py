"""The report: one HTML file that stands alone. `page.render_report` makes it from the parsed files of a run.

Nothing is loaded from elsewhere, no script runs, and the same run gives the same bytes.
"""
