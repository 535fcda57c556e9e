"""A blob out of a repository: resumed, tried again, and brought once more where it came wrong."""

from __future__ import annotations

from modelbake.errors import IntegrityError
from modelbake.files import CHUNK
from modelbake.oci.model import Descriptor
from modelbake.oci.repository import NoPartsError, Repository
from modelbake.oci.sink import FileSink
from modelbake.output import Progress
from modelbake.patience import TransientError

_SMALL_PIECE = 1 << 14


def download(repository: Repository, descriptor: Descriptor, sink: FileSink, progress: Progress) -> None:
    """Bring the blob into the sink; IntegrityError where what comes is wrong.

    Where what was kept from before, or a part out of the middle, may be what is wrong, it is all brought once more.
    """
    for again in (False, True):
        _bring(repository, descriptor, sink, progress, again)
        wrong = sink.wrong()
        if wrong is None:
            return
        sink.restart()
        progress.update(-descriptor.size)
    raise IntegrityError(
        f"{repository}: the blob {descriptor.digest} is damaged there, changed on its way or not what it should be: {wrong}. Nothing of "
        "it was kept; delete it in the registry, and push it again from where it is whole."
    )


def _bring(
    repository: Repository, descriptor: Descriptor, sink: FileSink, progress: Progress, from_the_start: bool
) -> None:
    at = 0 if from_the_start else sink.take_up()
    progress.update(at)

    piece = CHUNK

    def attempt() -> None:
        nonlocal at, piece
        try:
            for chunk in repository.chunks(descriptor, at, piece):
                sink.write(chunk)
                at += len(chunk)
                progress.update(len(chunk))
        except NoPartsError:
            sink.restart()
            progress.update(-at)
            at = 0
            raise
        except TransientError:
            # A connection that breaks loses the piece that was being read: one that keeps breaking must get forward too.
            piece = _SMALL_PIECE
            raise

    furthest = at

    def gained() -> bool:
        # Further than ever, or a registry without parts that always breaks at one place would be asked for ever.
        nonlocal furthest
        better, furthest = at > furthest, max(at, furthest)
        return better

    while at < descriptor.size:
        repository.patience().run(attempt, gained)
