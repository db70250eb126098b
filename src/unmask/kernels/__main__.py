"""`python -m unmask.kernels`: compile the kernels beside their source, for an image that will have no compiler."""

from __future__ import annotations

import subprocess

from unmask.kernels import compiled


def main() -> None:
    try:
        print(compiled.build(compiled.file_in(compiled.SOURCE.parent)))
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the compiler refuses:\n{error.stderr.decode(errors='replace')[:2000]}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
