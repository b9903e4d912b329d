"""The library's error family: a code, and a sentence for the owner of the input.

FedLASError
├── UnsupportedModel    an upload that is no classifier we can open: `unsafe_format`, `external_data`, …
├── BadDataset          rows that cannot be trained on or judged: `non_finite`, `labels_out_of_range`, …
├── Mismatch            model and dataset do not fit: `inputs_mismatch`, `class_mismatch`, …
├── BaselineMismatch    the uploaded model is far from the expected accuracy
├── PreconditionFailed  model and dataset certainly do not belong together: `label_order`, …
├── DeviceTooSmall      a network of which a card's memory does not hold one row
├── ConversionError     an object in memory that cannot be written as a file that the service takes
└── ExportError         a file that does not compute what was trained; another finalist is served in its place

All but DeviceTooSmall and ConversionError are ValueErrors too, as functions of arrays raise them; errors of the client
are none (`fedlas.client.errors`).
"""

from __future__ import annotations


class FedLASError(Exception):
    """Base of the family: a stable machine `code` and a sentence that says what was found and what is needed."""

    #: True where the owner of the input can mend it, as opposed to a defect of the library.
    user_error = True

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class UnsupportedModel(FedLASError, ValueError):
    """The upload is not a classifier that can be opened safely."""


class BadDataset(FedLASError, ValueError):
    """The dataset cannot be read, trained on or judged."""


class Mismatch(FedLASError, ValueError):
    """Model and dataset do not fit together; the message shows both sides."""


class BaselineMismatch(FedLASError, ValueError):
    """The uploaded model misses the expected accuracy: label order or preprocessing is probably wrong."""

    def __init__(self, message: str) -> None:
        super().__init__("baseline_mismatch", message)


class PreconditionFailed(FedLASError, ValueError):
    """Model and dataset fit in form, but something is certainly wrong; `accept_warnings` goes on in spite of it."""


class DeviceTooSmall(FedLASError):
    """The memory of a card does not hold the network and one row; the CPU may."""

    user_error = False

    def __init__(self, message: str) -> None:
        super().__init__("card_too_small", message)


class ConversionError(FedLASError):
    """A network, an estimator, a frame or a loader cannot be written as a file; the message says what to do."""


class ExportError(FedLASError, ValueError):
    """The exported file does not reproduce the trained network; nothing may be served from it.

    `fedlas.calibration.calibrate` serves the next finalist in its place, so that this ends no job that has trained.
    """

    user_error = False
