"""The look of the page, and the few lines that sort its tables. Constants only."""

from __future__ import annotations

#: How marks of plots look; the console has its own page around them, with colours of the same names.
PLOT_STYLE = """svg .grid{stroke:var(--grid)}svg .tick{fill:var(--soft);font-variant-numeric:tabular-nums}
svg .axis{fill:var(--soft);font-size:12.5px}
svg .limit{stroke:var(--limit);stroke-width:1.5;stroke-dasharray:5 4}
svg .limit-name{fill:var(--limit);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px}
svg .hatch{stroke:var(--hatch);stroke-width:3}
svg .front{fill:none;stroke:var(--ink);stroke-width:1.5;opacity:.38}
svg .whisker{stroke:var(--soft);opacity:.42}svg .whisker.strong{stroke:var(--ink);opacity:.8;stroke-width:1.5}
svg .mark{stroke:var(--card);stroke-width:1.5;fill:var(--mark);fill-opacity:.88}
svg .mark.over_budget{fill:var(--card);fill-opacity:.5;stroke:var(--mark);stroke-width:2}
svg .mark.unknown{fill:var(--card);fill-opacity:.5;stroke:var(--mark);stroke-width:2;stroke-dasharray:3 2}
svg .halo{fill:none;stroke:var(--ink);stroke-width:2}
svg .option:hover .mark,svg .option:focus .mark{fill-opacity:1;stroke:var(--ink);stroke-width:2}
svg .option{outline:none}
svg .label{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
svg .label.strong{font-weight:680;font-size:12.5px}
svg .leader{stroke:var(--soft);opacity:.6}
svg .ridge{fill:var(--mark);fill-opacity:.32;stroke:var(--mark);stroke-width:1.2}
svg .fits .ridge{fill:var(--fits);stroke:var(--fits)}svg .over_budget .ridge{fill:var(--over);stroke:var(--over)}
svg .unknown .ridge{fill:var(--unknown);stroke:var(--unknown)}
svg .ridge-span{stroke:var(--soft);opacity:.5}svg .ridge-p50{stroke:var(--ink);stroke-width:1.6}
svg .ridge-p95{fill:var(--ink)}
svg .option:hover .ridge,svg .option:focus .ridge{fill-opacity:.55}
svg .heat{fill:var(--mark);fill-opacity:.75}svg .heat.flagged{fill:var(--over)}
svg .flag{fill:var(--over);font-size:11px}
"""

STYLE = (
    """
:root{color-scheme:light dark;--paper:#fafaf8;--card:#fff;--ink:#1b1e23;--soft:#5c636e;--line:#e3e4e1;--grid:#ecedea;
--fits:#137a5f;--over:#b3402f;--unknown:#6a5fb0;--failed:#7b818a;--accent:#137a5f;--wash:#eef6f2;--hatch:#b3402f26;
--limit:#b3402f;--mark:#2f6fbf}
@media (prefers-color-scheme:dark){:root{--paper:#121417;--card:#1a1d21;--ink:#e9eaec;--soft:#a0a7b1;--line:#2c3036;
--grid:#25292e;--fits:#53c9a4;--over:#f08e7c;--unknown:#b3a9f2;--failed:#969da7;--accent:#53c9a4;--wash:#17251f;
--hatch:#f08e7c2b;--limit:#f08e7c;--mark:#6aa3e8}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-font-smoothing:antialiased}
main,header.top,footer{max-width:1120px;margin:0 auto;padding:0 28px}
header.top{display:flex;gap:16px;align-items:baseline;flex-wrap:wrap;padding-top:28px;color:var(--soft);font-size:14px}
header.top b{color:var(--ink);font-weight:650;letter-spacing:-.01em;font-size:16px}
header.top nav{margin-left:auto;display:flex;gap:14px}
a{color:var(--accent)}
h1{font-size:34px;line-height:1.18;letter-spacing:-.022em;font-weight:660;margin:10px 0 12px;max-width:32em;
text-wrap:balance}
h2{font-size:19px;letter-spacing:-.012em;font-weight:640;margin:0 0 4px}
section.task{padding:36px 0 8px;border-bottom:1px solid var(--line)}
.nb{white-space:nowrap}
.kicker{color:var(--soft);font-size:14px;margin:0}
.kicker b{color:var(--ink);font-weight:600}
.lead{font-size:17px;color:var(--soft);margin:0 0 22px;max-width:46em}
.lead em{font-style:normal;color:var(--ink)}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:22px 24px;margin:0 0 20px}
.card>p.note{margin:0 0 14px;color:var(--soft);font-size:14px;max-width:60em}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(156px,1fr));gap:12px;margin:0 0 20px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:13px 14px 14px}
.tile .name{color:var(--soft);font-size:12.5px;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.tile .value{font-size:24px;font-weight:640;letter-spacing:-.02em;font-variant-numeric:tabular-nums;margin:1px 0 0}
.tile .span,.tile .against{color:var(--soft);font-size:12.5px;font-variant-numeric:tabular-nums;min-height:1.5em}
.tile .bar{height:5px;border-radius:3px;background:var(--grid);margin:9px 0 5px;overflow:hidden}
.tile .bar i{display:block;height:100%;border-radius:3px;background:var(--fits)}
.tile.missed .bar i{background:var(--over)}.tile.unknown .bar i{background:var(--unknown)}
.tile.missed .value{color:var(--over)}
.scroll{overflow-x:auto;margin:0 -6px;padding:0 6px}
svg{display:block;width:100%;min-width:760px;height:auto;font:12px/1 system-ui,-apple-system,"Segoe UI",Roboto,Arial,
sans-serif;fill:var(--ink)}
"""
    + PLOT_STYLE
    + """.switch{position:absolute;opacity:0;pointer-events:none}
.switches{display:inline-flex;border:1px solid var(--line);border-radius:9px;overflow:hidden;font-size:13px;float:right}
.switches label{padding:4px 12px;color:var(--soft);cursor:pointer}
.view{display:none}
.switch.a:checked~.switches label.a,.switch.b:checked~.switches label.b{background:var(--wash);color:var(--ink);
font-weight:600}
.switch.a:checked~.view.a,.switch.b:checked~.view.b{display:block}
.switch:focus-visible~.switches{outline:2px solid var(--accent);outline-offset:2px}
.legend{display:flex;flex-wrap:wrap;gap:6px 20px;margin:14px 0 0;color:var(--soft);font-size:13px;align-items:center}
.legend span{display:inline-flex;align-items:center;gap:7px}
.legend svg{width:auto;min-width:0;height:16px;display:inline-block}
.ramp{width:110px;height:9px;border-radius:5px;background:linear-gradient(90deg,#3a63cc,#26a098,#e89326)}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{font-weight:600;text-align:left;color:var(--soft);font-size:12.5px;border-bottom:1px solid var(--line);
padding:7px 12px 7px 0;white-space:nowrap;vertical-align:bottom}
th button{all:unset;cursor:pointer;color:inherit}th button:hover{color:var(--ink)}
th button:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
th[aria-sort=ascending] button::after{content:" ↑"}th[aria-sort=descending] button::after{content:" ↓"}
td{border-bottom:1px solid var(--grid);padding:8px 12px 8px 0;vertical-align:top}
tbody th{vertical-align:top;border-bottom-color:var(--grid);padding:8px 12px 8px 0;font-size:13px}
tr:last-child td,tbody tr:last-child th{border-bottom:0}
td small{display:block;color:var(--soft);font-size:12px;white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap}
.why{display:block;color:var(--soft);font-size:12.5px;line-height:1.4;max-width:34em;margin-top:3px}
td.who{min-width:270px}td.who b{font-weight:620}
tr.winner td{background:var(--wash)}tr.winner td:first-child{box-shadow:inset 3px 0 0 var(--accent)}
table.options td:first-child,table.options th:first-child{padding-left:12px}
.standing{white-space:nowrap;font-weight:600}.standing i{font-style:normal;display:inline-block;width:1.25em}
.standing.fits{color:var(--fits)}.standing.over_budget{color:var(--over)}.standing.unknown{color:var(--unknown)}
.standing.failed{color:var(--failed)}
td.missed{color:var(--over);font-weight:600}td.unsure{color:var(--unknown);font-weight:600}
td.missed::before{content:"✕ ";font-size:11px}td.unsure::before{content:"? "}td small{font-weight:400}
.chip{display:inline-block;border:1px solid var(--line);border-radius:20px;padding:0 8px;font-size:12px;
color:var(--soft);margin-left:6px}
dl.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:14px 28px;margin:0}
dl.facts dt{color:var(--soft);font-size:12.5px}dl.facts dd{margin:0;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:20px}.pair .card{margin:0}
.pair{margin:0 0 20px}
details summary{cursor:pointer;color:var(--soft)}
footer{color:var(--soft);font-size:13px;padding-top:24px;padding-bottom:56px}
footer p{margin:0 0 8px;max-width:70em}
@media (max-width:640px){h1{font-size:26px}main,header.top,footer{padding-left:16px;padding-right:16px}
.pair{grid-template-columns:1fr}.card{padding:16px}}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""
)

SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0], at = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[at].dataset.v ?? row.cells[at].textContent;
  const rows = [...body.rows].sort((a, b) => {
    const x = key(a), y = key(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return up ? order : -order;
  });
  body.append(...rows);
});
"""
