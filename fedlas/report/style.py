"""How the report's page looks, on screen, on a phone and on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1.25rem 4rem; background: #fff; color: #1f2933;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-top: .9rem; border-top: 1px solid #e4e7eb; }
h3 { font-size: 1.02rem; margin: 1.5rem 0 .4rem; }
p, ul { margin: .5rem 0; max-width: 48rem; }
ul { padding-left: 1.25rem; } li { margin: .3rem 0; }
.soft, figcaption, .note { color: #52606d; font-size: .92rem; }
.verdict { font-size: 1.12rem; margin: .75rem 0; }
.badge { display: inline-block; padding: .2rem .75rem; border-radius: 1rem; color: #fff; font-weight: 600;
  font-size: .95rem; }
.good { background: #17696a; } .same { background: #52606d; } .open { background: #92560c; }
.warning { border-left: .3rem solid #b7791f; background: #fdf6e7; padding: .4rem 1rem; margin: 1rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; margin: 1rem 0; }
.card { border: 1px solid #cbd2d9; border-top: .3rem solid; border-radius: .35rem; padding: .75rem 1rem; }
.card h3 { margin: 0 0 .35rem; } .card p { margin: .3rem 0; }
.uploaded { border-top-color: #d1495b; } .temperature { border-top-color: #b7791f; }
.calibrated { border-top-color: #1c7c7d; }
.says { font-size: 1.08rem; } .says b { white-space: nowrap; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
figure { margin: .75rem 0; } figure svg { width: 100%; height: auto; display: block; }
.chart { max-width: 40rem; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td { padding: .34rem .65rem; border-bottom: 1px solid #e4e7eb; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #9aa5b1; font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.words { min-width: 8rem; max-width: 26rem; }
.range { color: #52606d; font-size: .84em; display: block; }
.flag { color: #a61e33; font-weight: 600; } .fine { color: #17696a; font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .3rem 1.25rem; font-size: .92rem; }
dt { font-weight: 600; } dd { margin: 0; }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; }
@media (max-width: 36rem) { dl { display: block; } dd { margin: 0 0 .6rem; } body { padding: 1rem .85rem 3rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2, h3 { break-after: avoid; }
  figure, .card, tr, .warning { break-inside: avoid; } .scroll { overflow: visible; }
  .badge, .warning, .card { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
