// Last of all scripts: every section prepares itself, is drawn, and then listens.

for (const section of sections) section.prepare?.();
redraw();
for (const section of sections) section.connect?.();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
// Paper is white whatever the screen is: the print style has the light colours by the time this runs.
matchMedia("print").addEventListener("change", redraw);
