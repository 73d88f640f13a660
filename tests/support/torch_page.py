"""What the PyTorch page defines, to be tested beyond what its blocks show."""

import ast

import pages

PAGE = "docs/pytorch.md"


def from_page(name):
    """The function or class of this name, with the imports of its block; the rest of the block does not run."""
    (block,) = (block for block in pages.blocks(PAGE) if f"def {name}(" in block or f"class {name}(" in block)
    imports = (ast.Import, ast.ImportFrom)
    wanted = [node for node in ast.parse(block).body if isinstance(node, imports) or getattr(node, "name", "") == name]
    namespace = {"__name__": PAGE}
    exec(compile(ast.Module(wanted, []), PAGE, "exec"), namespace)
    return namespace[name]
