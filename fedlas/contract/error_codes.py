"""Error codes: what the `code` of an error answer means, the status it comes with, and what to do about it.

The OpenAPI document and the reference page of error codes are made from this table. Codes of files that inspection
rejects and of jobs that fail stand in `record_codes`.
"""

from __future__ import annotations

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """One error.

    Attributes:
        status: under `/v1`; `/v2` answers 400 in place of 422.
        meaning: what has happened, as one sentence.
        remedy: what to do, as one sentence.
        also: other statuses that it may come with: 422 where the body, and not the path, names what is missing.
    """

    status: int
    meaning: str
    remedy: str
    also: tuple[int, ...] = ()


_LATER = "Come again after the seconds that `Retry-After` gives; nothing was changed."
_OPERATOR = "Tell the operator; `GET /readyz` names what cannot be reached."
_WAIT = "Wait for its end (`GET …?wait=60`), then ask again."


def _unknown(noun: str, where: str) -> ErrorCode:
    return ErrorCode(
        404, f"There is no {noun} with this id, or it was deleted.", f"{where} lists what there is.", (422,)
    )


ERROR_CODES: dict[str, ErrorCode] = {
    # Before anything is read.
    "malformed_request": ErrorCode(
        400, "The request is not HTTP, or its head can be read in two ways.", "Use an HTTP library; send a header once."
    ),
    "head_stalled": ErrorCode(
        408, "The head of the request was not whole after 15 s.", "Send it again over a better connection."
    ),
    "uri_too_long": ErrorCode(
        414, "The request line is longer than 64 KiB, or its path than 4 KiB.", "Send the rows as the body."
    ),
    "headers_too_large": ErrorCode(
        431, "The head has more than 64 KiB or 128 headers.", "Leave out headers that no one reads."
    ),
    "expectation_failed": ErrorCode(417, "`Expect` is not `100-continue`.", "Leave the header out."),
    "http_version_not_supported": ErrorCode(505, "The HTTP version is not 1.0 or 1.1.", "Send HTTP/1.1."),
    "too_many_connections": ErrorCode(503, "There are too many connections.", _LATER),
    "unauthorized": ErrorCode(
        401, "No key of this service was sent.", "Send `Authorization: Bearer KEY`; an administrator issues one."
    ),
    "forbidden": ErrorCode(
        403, "The key does not grant this.", "Use a key with the scope, and for the model, that the answer names."
    ),
    "no_administrator": ErrorCode(
        409,
        "Keys are issued by an administrator, and `FEDLAS_API_KEYS` names none.",
        "Set it, and issue keys with one of its keys.",
    ),
    "foreign_origin": ErrorCode(
        403, "A web page of another site sent the request.", "Name the page's host in `FEDLAS_ALLOWED_HOSTS`."
    ),
    "unknown_host": ErrorCode(
        421, "Without keys, only names of this machine are answered.", "Name the host in `FEDLAS_ALLOWED_HOSTS`."
    ),
    # The record that is asked for.
    "not_found": ErrorCode(
        404, "There is no such path, or nothing can have this id.", "Compare the path with `/docs`."
    ),
    "method_not_allowed": ErrorCode(405, "The path does not know this method.", "Use one of those in `Allow`."),
    "unknown_model": _unknown("model or published name", "`GET /v1/models` or `GET /v1/names`"),
    "unknown_dataset": _unknown("dataset", "`GET /v1/datasets`"),
    "unknown_job": _unknown("job", "`GET /v1/jobs`"),
    "unknown_prediction": _unknown("batch", "`GET /v1/batches`"),
    "unknown_calibrator": _unknown("calibrator", "`GET /v1/calibrators`"),
    "unknown_key": _unknown("key", "`GET /v1/keys`"),
    "unknown_upload": ErrorCode(
        404,
        "There is no upload with this id: it was used, deleted, or is older than 24 hours.",
        "Begin a new one with `POST /v1/uploads`.",
        (422,),
    ),
    "unknown_delivery": ErrorCode(
        404, "The job has no message with this id.", "`GET /v1/jobs/{job_id}/deliveries` lists them."
    ),
    "unknown_name": ErrorCode(404, "Nothing is published under this name.", "`GET /v1/names` lists the names."),
    "not_a_score": ErrorCode(
        422,
        "The model answers rows, not scores.",
        "Ask it at `/v1/models/{model}/predict`; only calibrators take scores.",
    ),
    "unknown_version": ErrorCode(404, "The name has no such version.", "`GET /v1/names/{name}` lists them.", (422,)),
    "unknown_results_part": ErrorCode(
        404, "The results have no part with this number.", "`GET /v1/batches/{id}/results/manifest` lists them."
    ),
    "unknown_record": ErrorCode(404, "Text that no database keeps stands for an id.", "Use an id as it was answered."),
    "artifact_missing": ErrorCode(
        404, "The stored file of this record is missing.", "Upload it again, and tell the operator.", (503,)
    ),
    "range_not_satisfiable": ErrorCode(
        416, "`Range` is none, or begins behind the end of the file.", "Ask for bytes within `Content-Range`."
    ),
    # The content that is sent.
    "invalid_request": ErrorCode(
        422,
        "A field or parameter is unknown, missing, or has no possible value.",
        "`errors` names it and what is needed.",
    ),
    "invalid_json": ErrorCode(422, "The body, a part or a parameter is not JSON.", "`detail` names the place."),
    "invalid_text": ErrorCode(
        422, "A text holds NUL or half of a surrogate pair.", "Send text that can be written as UTF-8."
    ),
    "too_many_parameters": ErrorCode(422, "The query string has more than 64 parameters.", "Send fewer."),
    "invalid_cursor": ErrorCode(
        422, "`after` is no id of this list.", "Give the id of the last record of the page before."
    ),
    "unsupported_media_type": ErrorCode(
        415,
        "The body has no `Content-Type`, or one that is not read here.",
        "Send a type of the operation, or no body.",
    ),
    "invalid_form": ErrorCode(
        422, "The body is no multipart form, or has too many or too long parts.", "Let an HTTP library write the form."
    ),
    "missing_part": ErrorCode(422, "The form lacks the part with the file.", "Send it under the name in `detail`."),
    "unknown_part": ErrorCode(422, "The form has a part that is not asked for.", "`detail` lists the parts."),
    "empty_upload": ErrorCode(422, "The file has no bytes.", "Send its bytes as the body."),
    "too_large": ErrorCode(
        413, "The body is larger than is read here.", "Send less at once; the operator sets `FEDLAS_MAX_UPLOAD_BYTES`."
    ),
    "too_many_values": ErrorCode(413, "JSON holds more values than is read here.", "Send a binary format, or less."),
    "too_many_rows": ErrorCode(413, "The request has more rows than one may have.", "Send them in several requests."),
    "too_many_pixels": ErrorCode(413, "Images have more pixels together than is read.", "Send fewer, or smaller ones."),
    "answer_too_large": ErrorCode(
        413, "The answer would be larger than is sent.", "Ask for as many rows as `detail` says, or for less per row."
    ),
    "body_stalled": ErrorCode(408, "Nothing of the body arrived for a minute.", "Send the request again."),
    # Retries.
    "idempotency_key_in_flight": ErrorCode(
        409, "A request with this `Idempotency-Key` is still running.", "Send it again in a moment, with the same key."
    ),
    "idempotency_key_reused": ErrorCode(
        422, "This `Idempotency-Key` came before, with other content.", "Take a new key for new content."
    ),
    # Uploads in pieces.
    "offset_mismatch": ErrorCode(
        409, "The piece does not begin where the upload ends.", "Go on at the `Upload-Offset` of this answer."
    ),
    "upload_busy": ErrorCode(409, "Another piece of this upload is arriving.", _LATER),
    "upload_incomplete": ErrorCode(409, "Bytes of this upload are still missing.", "Send them with PATCH first."),
    "upload_too_long": ErrorCode(
        413, "The piece goes beyond the announced size; it was not kept.", "Send what is missing and no more."
    ),
    "upload_stalled": ErrorCode(
        408, "Nothing of the piece arrived for 30 s; what came is kept.", "Go on from `Upload-Offset` (HEAD)."
    ),
    "not_raw": ErrorCode(422, "The piece came as a form.", "Send its bytes as the body."),
    "invalid_checksum": ErrorCode(
        422, "`Upload-Checksum` cannot be read.", "Send `sha256`, a space, and the digest in Base64."
    ),
    "checksum_mismatch": ErrorCode(422, "The piece has another SHA-256 than it says.", "Send the piece again."),
    "file_and_upload": ErrorCode(422, "Both a file and `upload_id` came.", "Send one of the two."),
    # Datasets, models, scores.
    "invalid_roles": ErrorCode(422, "`roles` is no object of role and column.", "Give names of columns by role."),
    "invalid_split_shares": ErrorCode(422, "The shares do not fit.", "Give shares of the splits that sum to 1."),
    "invalid_padding": ErrorCode(422, "`padding` is no object of input and number.", "Give a finite number per input."),
    "invalid_class_names": ErrorCode(
        422, "`class_names` are not two or more different names.", "Give a JSON list, or names between commas."
    ),
    "invalid_columns": ErrorCode(
        422, "`columns` are not different names.", "Give a JSON list, or names between commas."
    ),
    "invalid_positive_class": ErrorCode(
        422, "`positive_class` is none of `class_names`.", "Give both, and one of the names."
    ),
    "invalid_preprocessing": ErrorCode(
        422, "`preprocessing` says what cannot be done.", "`detail` names the part; leave out what has a default."
    ),
    # Records and what they allow.
    "in_use": ErrorCode(409, "Open work or a published name needs the record.", "Wait, cancel, or delete the name."),
    "not_finished": ErrorCode(409, "The record has not ended yet.", f"{_WAIT} A job can be cancelled."),
    "already_finished": ErrorCode(409, "The job has ended already.", "Read its record; nothing is left to cancel."),
    "provenance_needed": ErrorCode(
        422,
        "The dataset has no splits, and no word on which of its rows the model was trained on.",
        "Send it with `seen_by_model=no` if the model saw none of them, or with a column `split`.",
    ),
    "unlabelled_dataset": ErrorCode(
        422, "The dataset has no labels.", "Send it with labels, or predict it with `POST /v1/batches`."
    ),
    "webhook_not_permitted": ErrorCode(
        422, "The webhook leads where the operator allows none.", "Use a public HTTPS address, or ask the operator."
    ),
    "no_report": ErrorCode(409, "There is no report (yet): the job has not succeeded, or was a dry run.", _WAIT),
    "no_results": ErrorCode(409, "The batch has no results (yet).", _WAIT),
    "no_calibrator": ErrorCode(409, "The calibrator has no file (yet).", _WAIT),
    "default_version": ErrorCode(409, "This version answers under its name.", "Switch to another version first."),
    "default_changed": ErrorCode(
        409, "Another version of the name was chosen meanwhile.", "Look at the name again, then decide."
    ),
    "delivery_running": ErrorCode(409, "An attempt to deliver the message is running.", _LATER),
    # Predictions: models.
    "model_not_ready": ErrorCode(409, "The model is being inspected, or was rejected.", "Read `status` of its record."),
    "model_unloaded": ErrorCode(
        409, "The model was taken out of service.", "`POST /v2/repository/models/{model}/load` puts it back."
    ),
    "model_suspended": ErrorCode(503, "The model has ended its process, and is out of service for a while.", _LATER),
    "model_cannot_be_opened": ErrorCode(503, "The model's stored file cannot be opened now.", _OPERATOR),
    "out_of_memory": ErrorCode(503, "There is not enough memory for these rows now.", "Send fewer rows, or later."),
    # Predictions: rows.
    "empty_inputs": ErrorCode(422, "There are no rows.", "Send at least one."),
    "wrong_inputs": ErrorCode(422, "The inputs are not those of the model.", "`inputs` of its record lists them."),
    "wrong_shape": ErrorCode(422, "Rows have another shape than the model takes.", "`detail` has both shapes."),
    "wrong_dtype": ErrorCode(422, "Values have a type that the model cannot take.", "`detail` has the needed type."),
    "wrong_size": ErrorCode(422, "A tensor has more or fewer bytes than its shape.", "`detail` has both numbers."),
    "non_finite": ErrorCode(
        422,
        "A value is NaN or infinite.",
        "Fill it in, or upload the model with `missing=nan` where it takes such rows.",
    ),
    "non_finite_output": ErrorCode(422, "The model answers NaN for these rows.", "`detail` names the row; look at it."),
    "inputs_refused": ErrorCode(422, "The model cannot compute these rows.", "`detail` has its words."),
    "inputs_too_long": ErrorCode(422, "Rows are longer than the model can take.", "Send shorter ones."),
    "no_column_names": ErrorCode(
        422,
        "Rows are objects, but the model's columns have no names.",
        "Upload the model with `columns`, or send lists.",
    ),
    "missing_columns": ErrorCode(422, "Rows lack columns of the model.", "`detail` lists them."),
    "unknown_columns": ErrorCode(422, "Rows have columns that the model does not know.", "`detail` lists them."),
    "doubled_columns": ErrorCode(422, "A row has the same column twice.", "Send each once."),
    "bad_image": ErrorCode(422, "An image cannot be read.", "`detail` names the row and the reason."),
    "no_preprocessing": ErrorCode(
        422, "The model does not say how images become its input.", "Upload it with `preprocessing`, or send arrays."
    ),
    "invalid_npy": ErrorCode(422, "The body is no whole npy file.", "Write it with `numpy.save`."),
    "object_array": ErrorCode(422, "The npy file holds Python objects.", "Save an array of numbers."),
    "invalid_encoding": ErrorCode(422, "The body is not packed as `Content-Encoding` says.", "Pack it again."),
    "unsupported_encoding": ErrorCode(422, "The `Content-Encoding` is not read.", "Use gzip, deflate or none."),
    # Predictions: options.
    "max_error_unreachable": ErrorCode(
        422, "No threshold can promise this error rate.", "The last word of `detail` is the reachable one."
    ),
    "coverage_unreachable": ErrorCode(
        422, "Too few guarantee rows for this coverage.", "The last word of `detail` is the reachable one."
    ),
    "no_guarantee_rows": ErrorCode(
        422, "The model was calibrated without guarantee rows.", "Calibrate it on a dataset with a guarantee split."
    ),
    "guarantee_needs_data_priors": ErrorCode(
        422, "Promises hold for the class shares of the dataset.", "Leave `class_priors` out, or give those shares."
    ),
    "no_class_shares": ErrorCode(
        422, "No job has calibrated the model, so there are no shares to shift from.", "Calibrate it first."
    ),
    "no_decision_thresholds": ErrorCode(
        422, "No job has calibrated the model, so no thresholds were kept.", "Calibrate it first."
    ),
    "deadline_exceeded": ErrorCode(504, "The answer was not there in time.", "Allow more time, or send fewer rows."),
    "overloaded": ErrorCode(429, "Too many rows or bodies wait, or unknown keys or models are asked for.", _LATER),
    # Inference protocol.
    "missing_parameter": ErrorCode(422, "An output needs a parameter that was not given.", "`detail` names it."),
    "unknown_output": ErrorCode(422, "The model has no such output.", "`GET /v2/models/{name}` lists the outputs."),
    "not_classifiable": ErrorCode(422, "`classification` is for outputs with a value per class.", "Leave it out."),
    "unsupported_datatype": ErrorCode(422, "The tensor's datatype is not read.", "`detail` lists those that are."),
    # Ours.
    "internal_error": ErrorCode(500, "An unexpected error happened on our side.", "Report it with its `X-Request-Id`."),
    "database_unavailable": ErrorCode(503, "The database cannot be reached, or is busy.", _LATER),
    "unavailable": ErrorCode(503, "A process of the service is being started again.", _LATER),
    "storage_unavailable": ErrorCode(503, "Stored files cannot be reached, or the disk is full.", _OPERATOR),
    "artifact_damaged": ErrorCode(503, "A stored file is damaged.", _OPERATOR),
    "lease_lost": ErrorCode(409, "Another worker has taken the work over.", "Nothing: that worker goes on with it."),
}
