"""Options of commands. Completion in shells."""

from __future__ import annotations

from mrihvae.cli.sections import INPUT, Options

SHELLS = ("bash", "zsh", "fish")


class Completion(Options):
    """print a shell script that lets the Tab key complete commands, options and choices

    Save the script where the shell looks for it, then open a new shell:

    bash: ~/.local/share/bash-completion/completions/mrihvae (needs the package bash-completion)

    zsh: a file _mrihvae in a folder of $fpath, such as ~/.zfunc

    fish: ~/.config/fish/completions/mrihvae.fish

    Examples:
      mrihvae completion bash > ~/.local/share/bash-completion/completions/mrihvae
      mrihvae completion zsh > ~/.zfunc/_mrihvae
      mrihvae completion fish > ~/.config/fish/completions/mrihvae.fish
    """

    shell: str = INPUT("your shell", choices=SHELLS, positional=True)
