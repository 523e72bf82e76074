"""Sliders over a figure, with a static picture wherever nobody can slide."""

import base64
import os

import matplotlib.pyplot as plt

from gencourse import plot


def explore(draw, alt, **sliders):
    """Show the figure `draw(**values)` under one slider per argument.

    draw: function of the sliders' values that returns a Figure or an Axes; it must be quick.
    alt: the static picture's alternative text.
    sliders: name=(low, high, start) for a range (whole numbers give whole steps), or
        name=[first, second, …] for a choice; the static picture shows the start values (the first).
    With GENCOURSE_STATIC=1 (the build, the tests) only the static picture is shown. Otherwise it
    travels beside the sliders, for viewers such as GitHub that can't run them.
    """
    start = {k: v[0] if isinstance(v, list) else v[2] for k, v in sliders.items()}

    def picture(**values):
        target = draw(**values)
        figure = target if hasattr(target, "savefig") else target.figure
        data = plot.png(figure)
        plt.close(figure)
        return data

    first = picture(**start)
    bundle = {"image/png": base64.b64encode(first).decode("ascii"), "text/plain": alt}
    if os.environ.get("GENCOURSE_STATIC") != "1":
        bundle |= _live(picture, first, start, sliders)

    from IPython.display import display

    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})


def _live(picture, first, start, sliders):
    """The widget's part of the MIME bundle: sliders above an image that they redraw."""
    import ipywidgets

    image = ipywidgets.Image(value=first, format="png")
    controls = {}
    for name, spec in sliders.items():
        label = name.replace("_", " ")
        wide = {"description_width": "140px"}
        if isinstance(spec, list):
            control = ipywidgets.Dropdown(options=spec, description=label, style=wide)
        else:
            low, high, value = spec
            whole = all(isinstance(v, int) for v in spec)
            kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
            step = 1 if whole else (high - low) / 100
            control = kind(min=low, max=high, value=value, step=step, description=label, style=wide)
            control.layout.width = "420px"
        controls[name] = control

    def redraw(_):
        image.value = picture(**{k: c.value for k, c in controls.items()})

    for control in controls.values():
        control.observe(redraw, names="value")
    left = {"align_items": "flex-start"}  # a picture of its own size, not stretched to the page
    box = ipywidgets.VBox([*controls.values(), image], layout=left)
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}
