"""Text from outside, made harmless for a terminal."""


def printable(text: str) -> str:
    """An event may hold anything: what would steer the terminal or begin a line is shown, not obeyed."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
