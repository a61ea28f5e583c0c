"""How the FaceMap page looks, and its frame."""

STYLE = """
html, body { height: 100%; margin: 0; background: #ffffff; overflow: hidden; }
body { display: flex; flex-direction: column; font: 14px system-ui, sans-serif; color: #111827; }
header { display: flex; gap: 14px; align-items: baseline; padding: 12px 18px 8px;
  border-bottom: 1px solid #e5e7eb; flex-wrap: wrap; }
header h1 { font-size: 20px; margin: 0; }
header span, small, p, #foot { color: #6b7280; }
main { flex: 1; min-height: 0; display: flex; }
#field { flex: 1; min-width: 0; position: relative; background: #fafafa; overflow: hidden; }
#map { position: absolute; inset: 0; width: 100%; height: 100%; touch-action: none; cursor: grab; }
#map:active { cursor: grabbing; }
#tip { position: absolute; padding: 8px 10px; width: 128px; background: #ffffff;
  border-radius: 12px; box-shadow: 0 4px 18px rgba(17, 24, 39, .22);
  pointer-events: none; text-align: center; }
#tip b, #tip small { display: block; overflow: hidden; text-overflow: ellipsis; }
#tip b { margin-top: 4px; }
[hidden] { display: none !important; }
aside { width: 292px; box-sizing: border-box; padding: 12px 14px; display: flex;
  flex-direction: column; gap: 10px; border-left: 1px solid #e5e7eb; min-height: 0; }
input[type=search], select { width: 100%; box-sizing: border-box; font: inherit; padding: 8px 10px;
  border: 1px solid #d1d5db; border-radius: 8px; background: #ffffff; }
#finding { position: relative; }
input[type=search]:focus { outline: 2px solid #2563eb; outline-offset: -1px; }
#found { position: absolute; left: 0; right: 0; z-index: 2; background: #ffffff;
  border-radius: 8px; box-shadow: 0 6px 20px rgba(17, 24, 39, .2); overflow: hidden auto;
  max-height: 420px; }
#found button { display: flex; gap: 8px; align-items: center; width: 100%; padding: 5px 8px;
  border: 0; background: none; font: inherit; text-align: left; cursor: pointer; }
#found button:hover { background: #f3f4f6; }
#maps { display: flex; }
#maps:empty { display: none; }
#maps button { flex: 1; font: inherit; padding: 6px 4px; border: 1px solid #d1d5db;
  background: #ffffff; cursor: pointer; margin-left: -1px; }
#maps button:first-child { border-radius: 8px 0 0 8px; margin-left: 0; }
#maps button:last-child { border-radius: 0 8px 8px 0; }
#maps button.on { background: #2563eb; border-color: #2563eb; color: #ffffff; }
label { display: flex; gap: 10px; align-items: center; color: #6b7280; white-space: nowrap; }
label input { flex: 1; min-width: 0; accent-color: #2563eb; }
#legend { padding-top: 6px; }
#legend span { display: inline-flex; align-items: center; gap: 5px; margin: 0 10px 4px 0;
  font-size: 12px; color: #374151; }
#legend s { width: 12px; height: 12px; border-radius: 3px; display: inline-block; }
#panel { flex: 1; min-height: 0; overflow-y: auto; }
#panel p { line-height: 1.5; margin: 4px 0 10px; }
#panel h3 { font-size: 13px; color: #6b7280; margin: 10px 0 4px; font-weight: 600; }
.card { display: flex; gap: 10px; align-items: center; padding: 6px; border: 0; width: 100%;
  border-radius: 10px; cursor: pointer; background: none; font: inherit; text-align: left; }
.card:hover { background: #f3f4f6; }
.face { display: inline-block; flex: none; border-radius: 8px; background-repeat: no-repeat; }
.about { flex: 1; min-width: 0; display: flex; flex-direction: column; gap: 2px; }
.about b { font-weight: 600; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.about small { font-size: 12px; }
.about i { height: 5px; border-radius: 3px; background: #e5e7eb; display: block; }
.about u { height: 5px; border-radius: 3px; background: #f59e0b; display: block; }
#foot { font-size: 12px; line-height: 1.45; }
@media (max-width: 720px) { aside { width: 210px; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><span>{counted}</span><span>{note}</span></header>
<main>
<div id="field"><canvas id="map"></canvas><div id="tip" hidden></div></div>
<aside>
<div id="finding"><input id="search" type="search" placeholder="Find a star …" autocomplete="off"
 aria-label="Find a star"><div id="found"></div></div>
<div id="maps"></div>
<label>Size <input id="size" type="range" min="6" max="128"></label>
<div id="colouring" hidden><label>Colour by <select id="colour"></select></label>
<div id="legend"></div></div>
<div id="panel"><p><b>Click a face</b> to light up the faces most like it in the embedding itself,
which has far more than two dimensions: where they lie far apart on the map, the map had to give
way.</p><p>Drag to move, turn the wheel to zoom, double-click to see all, Escape to clear.</p></div>
<div id="foot"></div>
</aside>
</main>
<script id="facemap-data" type="application/json">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""
