"""`mrihvae protocols`: the protocols that come with the package, and what runs them."""

from __future__ import annotations

from mrihvae.cli import options
from mrihvae.protocols.evaluation import find_protocol, list_protocols, list_training_protocols


def run(arguments: options.Protocols) -> None:
    """List the protocols, or print one."""
    if arguments.name is not None:
        print(find_protocol(arguments.name).read_text(), end="")
        return
    evaluations, benchmarks = list_protocols()
    training = list_training_protocols()
    width = max(map(len, [*evaluations, *training, *benchmarks]))
    print("Evaluations of mrihvae: mrihvae run NAME --data DIR --output DIR\n")
    for name, description in evaluations.items():
        print(f"{name:<{width}}  {description}")
    print("\nTraining: mrihvae train --protocol NAME --data DIR --output RUN\n")
    for name, description in training.items():
        print(f"{name:<{width}}  {description}")
    print("\nBenchmarks, which compare methods or study mrihvae: commands in a checkout of the repository\n")
    for name, (description, command) in benchmarks.items():
        print(f"{name:<{width}}  {description}\n{'':<{width}}  {command}")
