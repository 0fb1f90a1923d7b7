"""Options of `mrihvae restore`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mrihvae.pnp.recommended import TASKS
from mrihvae.pnp.settings import ENCODERS, RESULTS
from mrihvae.utils.precision import PRECISIONS

BOUNDARIES = ("periodic", "zero")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add, usual = parser.add_argument, "as recommended for task and noise if left out"
    add("input", type=Path, metavar="INPUT", help="NIfTI file, grey PNG, JPEG or TIFF, or a folder of them")
    add("--task", choices=TASKS, required=True, help="what is wrong with the images")
    add("--output", type=Path, required=True, help="folder for restored images, panels/ and restore.json")
    add("--kernel-width", type=float, nargs="+", help="standard deviation of a Gaussian blur, in pixels of the result; "
        "or two, along and across; superresolve: 0.4 x factor if left out")  # fmt: skip
    add("--kernel-angle", type=float, help="degrees from the second axis to the first, by which two widths are turned")
    add("--kernel", type=Path, help="blur as a 2D .npy array or a picture, of odd sizes, instead of --kernel-width")
    add("--boundary", choices=BOUNDARIES, help="what is beyond the edge (deblur); periodic if left out")
    add("--factor", type=int, choices=(2, 4), help="how many times finer the result is along both axes (superresolve)")
    add("--mask", type=Path, help="image that is not 0 where pixels are known, for all slices or each (inpaint)")
    add("--missing", type=float, help="value of pixels that are not known, such as 0 or nan (inpaint)")
    add("--noise", type=float, help="standard deviation, in the image's unit; estimated for each volume if left out")
    add("--checkpoint", default="restoration", help="name of shipped weights, or a .safetensors file")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    add("--batch-size", type=int, default=4, help="slices restored together; lower it to save memory")
    add("--iterations", type=int, help=f"passes of the encoder; {usual}")
    add("--gamma", type=float, help=f"how far data may pull from the prior's image, over its brightness; {usual}")
    add("--tau", type=float, nargs="+", help=f"temperature of the prior in [0, 1], one or one a level; {usual}")
    add("--tau-finest", type=float, help="tau of the finest level, --tau being the coarsest's")
    add("--relaxation", type=float, help=f"part of the step to each new image that is taken, in (0, 1]; {usual}")
    add("--views", type=int, help=f"mirrored copies that are averaged; {usual}")
    add("--encoder", choices=ENCODERS, help=f"whether it is told of the data; {usual}")
    add("--result", choices=RESULTS, help=f"the decoder's image, or the one nearer to the data; {usual}")
    add(
        "--tolerance", type=float, help="stop a slice once it changes by this part; 0, if left out, does all iterations"
    )
    add("--patience", type=int, help="or once its change was not at its least for so many iterations; 0: never")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bfloat16 where that is faster")
    add("--resume", action="store_true", help="leave out images that are in --output already")
