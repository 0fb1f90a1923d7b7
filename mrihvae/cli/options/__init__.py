"""What users type: the options of each command.

A class is a command. The first line of its docstring is the command's summary; the rest is printed below its options.
No torch is loaded to show them.
"""

from mrihvae.cli.options.completion import Completion as Completion
from mrihvae.cli.options.doctor import Doctor as Doctor
from mrihvae.cli.options.files import Convert as Convert
from mrihvae.cli.options.files import Evaluate as Evaluate
from mrihvae.cli.options.files import Report as Report
from mrihvae.cli.options.images import Restore as Restore
from mrihvae.cli.options.images import Sample as Sample
from mrihvae.cli.options.info import Info as Info
from mrihvae.cli.options.reconstruct import Demo as Demo
from mrihvae.cli.options.reconstruct import Protocols as Protocols
from mrihvae.cli.options.reconstruct import Reconstruct as Reconstruct
from mrihvae.cli.options.reconstruct import Run as Run
from mrihvae.cli.options.scanner import Filter as Filter
from mrihvae.cli.options.scanner import Send as Send
from mrihvae.cli.options.scanner import Serve as Serve
from mrihvae.cli.options.training import Adapt as Adapt
from mrihvae.cli.options.training import Calibrate as Calibrate
from mrihvae.cli.options.training import Simulate as Simulate
from mrihvae.cli.options.training import Train as Train

ORDER = (  # in which `mrihvae --help` lists them
    Demo, Reconstruct, Info, Restore, Evaluate, Convert, Report, Serve, Filter, Send, Protocols, Run, Sample, Simulate,
    Train, Adapt, Calibrate, Doctor, Completion,
)  # fmt: skip
COMMANDS = {command.__name__.lower(): command for command in ORDER}
