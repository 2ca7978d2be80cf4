"""The style sheet of the report, kept apart from its content."""

CSS = """
:root { --ink: #111827; --soft: #4b5563; --faint: #6b7280; --line: #e5e7eb; --paper: #ffffff;
  --ground: #f4f6f8; --accent: #0072b2; --good: #00714f; --tint: #eef6fb; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
header h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
header p { margin: 0; color: var(--soft); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 24px; margin-top: 20px; }
h2 { font-size: 18px; margin: 0 0 4px; }
h3 { font-size: 14px; margin: 20px 0 6px; }
p.note { color: var(--faint); font-size: 13.5px; margin: 2px 0 12px; max-width: 78ch; }
p.verdict { margin: 4px 0 12px; max-width: 78ch; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px;
  margin-top: 20px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 18px; }
.card .label { color: var(--faint); font-size: 13px; }
.card .value { font-size: 26px; font-weight: 650; letter-spacing: -0.02em; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.card .more { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 13px; padding: 6px 2px; }
th, td { padding: 7px 8px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--faint); font-weight: 550; font-size: 12.5px; vertical-align: bottom;
  white-space: normal; line-height: 1.3; }
tbody tr:last-child td { border-bottom: none; }
th:first-child, td:first-child { text-align: left; padding-left: 2px; }
tr.best td { background: var(--tint); }
td.top { font-weight: 700; }
td .span { display: block; color: var(--faint); font-size: 12px; font-weight: 400; }
.flow { columns: 2 380px; column-gap: 48px; margin-top: 10px; font-size: 14px;
  font-variant-numeric: tabular-nums; }
.flow h3 { break-after: avoid; margin-top: 16px; }
.fact { display: flex; justify-content: space-between; gap: 20px; padding: 6px 2px;
  border-bottom: 1px solid var(--line); break-inside: avoid; }
.fact span:first-child { color: var(--soft); flex: none; }
.fact span:last-child { text-align: right; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; margin: 8px 0; }
details { margin-top: 8px; }
summary { cursor: pointer; color: var(--accent); font-size: 14px; }
.example { border-top: 1px solid var(--line); padding-top: 14px; margin-top: 16px; }
.example:first-of-type { border-top: none; margin-top: 4px; }
.example h3 { margin: 0 0 8px; }
.lists { display: grid; gap: 20px 28px;
  grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); }
.lists h4 { margin: 0 0 4px; font-size: 13px; color: var(--faint); font-weight: 550; }
.lists ol { margin: 0; padding-left: 26px; font-size: 13.5px; }
.lists li { margin-bottom: 3px; overflow-wrap: anywhere; }
.lists li::marker { color: var(--faint); }
li.next { list-style: none; margin: 8px 0 0 -26px; padding: 5px 9px; background: var(--tint);
  border-radius: 6px; font-weight: 600; }
li.hit { color: var(--good); font-weight: 650; }
li.hit::after { content: "  \\2713"; }
footer { color: var(--faint); font-size: 13px; margin-top: 24px; }
@media (max-width: 640px) { main { padding: 20px 12px 40px; } section { padding: 16px 14px; } }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
