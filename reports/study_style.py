"""How the page of studies looks: on a screen of any width, and on paper."""

from reports.palette import INK

STYLE = f"""\
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 66rem; padding: 1rem; color: {INK}; background: #fff;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1, h2, h3 {{ line-height: 1.25; margin: 1.6em 0 0.5em; }}
h1 {{ margin-top: 0.5em; }}
h2 {{ font-size: 1.4rem; }}
h3 {{ font-size: 1.1rem; }}
p {{ margin: 0.5em 0; max-width: 50rem; }}
a {{ color: #00527f; }}
code {{ background: #f2f2f2; padding: 0.1em 0.3em; border-radius: 3px; font-size: 0.9em; }}
section {{ border-top: 2px solid #d0d0d0; margin-top: 2.5rem; }}
nav ol {{ padding-left: 1.6em; }}
nav li {{ margin: 0.5em 0; }}
.asked, figcaption, .repeat, footer {{ font-size: 0.9rem; color: #4a4a4a; }}
dt {{ font-weight: 600; }}
dd {{ margin: 0 0 0.5em 0; }}
dd p {{ margin: 0 0 0.3em; }}
.badge {{ display: inline-block; padding: 0 0.5em; border: 2px solid; border-radius: 4px; font-size: 0.85rem;
  font-weight: 600; line-height: 1.5; white-space: nowrap; color: {INK}; background: #fff; }}
.holds {{ border-color: #0072b2; background: #e4f1fa; }}
.holds-in-part {{ border-color: #b87900; border-style: dashed; background: #fdf3df; }}
.does-not-hold {{ border-color: #b04a00; border-style: double; background: #fbe9de; }}
.could-not-be-run {{ border-color: {INK}; border-style: dotted; background: #eee; }}
figure {{ margin: 1rem 0; }}
figcaption, .asked {{ max-width: 50rem; }}
img {{ display: block; max-width: 100%; height: auto; }}
.scroll {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-size: 0.875rem; overflow-wrap: normal; }}
caption {{ text-align: left; font-weight: 600; padding: 0.3em 0; }}
caption span {{ position: sticky; left: 0; display: inline-block; max-width: min(100%, calc(100vw - 2rem)); }}
th, td {{ padding: 0.25em 0.7em 0.25em 0; text-align: left; vertical-align: top; font-weight: 400;
  border-bottom: 1px solid #e0e0e0; min-width: 3rem; max-width: 22rem; }}
thead th {{ font-weight: 600; vertical-align: bottom; border-bottom: 1px solid {INK}; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.short {{ white-space: nowrap; }}
.long {{ min-width: 11rem; overflow-wrap: anywhere; }}
thead .number, thead .short {{ white-space: normal; }}
summary {{ cursor: pointer; font-weight: 600; }}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 10pt; }}
  section {{ break-before: page; border: 0; margin-top: 0; }}
  figure, tr, .badge {{ break-inside: avoid; }}
  h2, h3, caption {{ break-after: avoid; }}
  .scroll {{ overflow: visible; }}
  details::details-content {{ content-visibility: visible; height: auto; }}
  a {{ color: inherit; text-decoration: none; }}
}}
"""
