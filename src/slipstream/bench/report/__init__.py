"""What people see of results: Markdown, charts, one HTML page; and what differs between two files of results.

files of records ──results──▶ places and entries ──story──▶ Document ──markdown──▶ report.md
                                                                │ ────page──────▶ report.html
                                                                └ ────charts────▶ PNG, SVG

results      records merged, grouped by what may be compared, medians taken
published    the reference document's figures, as data (published.json)
document     the value between: sections, tables, figures; plain text throughout
story        which sections there are, in which order
headline     appendix  extended  choices  special  conditions     the tables in them
chart_data   charts  inks  inline_svg            the drawings; only `charts` imports matplotlib
markdown     page                                the two forms of a document
write        all the files of a report
noise        whether two sets of samples differ
compare      two files of results
"""
