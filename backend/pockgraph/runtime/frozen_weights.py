"""What the frozen matrices of an artefact are stored in: the option `frozen_weights`."""

from __future__ import annotations

from ..errors import ArtifactError
from .manifest import Manifest

OPTION = "frozen_weights"
FROZEN_WEIGHTS = ("f32", "int8")


def stored_frozen_weights(manifest: Manifest) -> str:
    """The option that an artefact was compiled with.

    Raises:
        ArtifactError: a value that this version does not know.
    """
    stored = manifest.options.get(OPTION, FROZEN_WEIGHTS[0])
    if stored not in FROZEN_WEIGHTS:
        raise ArtifactError(
            f"The artefact stores frozen weights in {stored!r}; this version knows "
            f"{', '.join(FROZEN_WEIGHTS)}. Compile it again with this version."
        )
    return stored
