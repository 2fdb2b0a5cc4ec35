"""The look of a report: one style sheet for screens, light or dark, and for paper."""

from .charts import COLOURS, EDGE, GREY

DARK = ("#58a6ff", "#ff7b72", "#3fb950", "#d29922", "#bc8cff", "#f778ba", "#39c5cf", "#8b949e")


def _colours(colours: tuple[str, ...]) -> str:
    return "".join(f"--c{i}:{colour};" for i, colour in enumerate(colours))


_LIGHT = f"--ground:#fff;--ink:#1f2328;--faint:{GREY};--edge:{EDGE};--panel:#f6f8fa;{_colours(COLOURS)}"
_DARK = f"--ground:#0d1117;--ink:#e6edf3;--faint:#9198a1;--edge:#3d444d;--panel:#151b23;{_colours(DARK)}"

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
body {{ margin: 0 auto; padding: 1.5rem; max-width: 62rem; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ margin: 0; font-size: 1.7rem; }}
h2 {{ margin: 2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--edge); font-size: 1.2rem; }}
h3 {{ margin: 1.2rem 0 .4rem; font-size: 1rem; }}
.status {{ margin: .2rem 0 0; color: var(--faint); }}
.verdict {{ padding: .6rem .9rem; border-left: 4px solid var(--c0); background: var(--panel); }}
.wide {{ overflow-x: auto; }}
table {{ margin: .5rem 0; border-collapse: collapse; font-size: .9rem; }}
th, td {{ padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--edge); text-align: left; vertical-align: top; overflow-wrap: break-word; }}
th {{ color: var(--faint); font-weight: 600; }}
.n {{ padding-left: .8rem; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.matrix .n {{ padding: .2rem .5rem; }}
{"".join(f".heat{i} {{ background: rgba(9, 105, 218, {0.06 * i:.2f}); }} " for i in range(1, 11))}
pre {{ padding: .8rem; border: 1px solid var(--edge); border-radius: 6px; background: var(--panel); font-size: .82rem; white-space: pre-wrap; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }}
figure {{ margin: 0; break-inside: avoid; }}
figcaption {{ font-weight: 600; font-size: .9rem; }}
figure > svg {{ width: 100%; height: auto; }}
svg text {{ fill: var(--faint); font: 11px system-ui, sans-serif; }}
.grid {{ stroke: var(--edge); stroke-width: .7; }}
.line {{ fill: none; stroke-width: 1.7; stroke-linejoin: round; }}
{"".join(f".c{i} {{ stroke: var(--c{i}); }} circle.c{i} {{ fill: var(--c{i}); }} " for i in range(len(COLOURS)))}
.legend {{ display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: 0; padding: 0; list-style: none; font-size: .8rem; }}
.legend svg {{ width: 24px; height: 8px; margin-right: .35rem; }}
summary {{ margin: .5rem 0; cursor: pointer; }}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; }}
  section {{ break-inside: auto; }}
  h2, h3 {{ break-after: avoid; }}
  tr {{ break-inside: avoid; }}
  .wide {{ overflow: visible; }}
  details::details-content {{ content-visibility: visible; block-size: auto; }}
  .charts {{ grid-template-columns: 1fr 1fr; }}
}}
"""
