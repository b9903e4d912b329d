"""Codes of records: why a file was rejected, or why a job, batch or calibrator failed (`error.code` of its record).

The message beside a code says what was found, where, and what is needed; this is what the code stands for.
"""

from __future__ import annotations

#: Files of models.
MODEL_CODES = {
    "ambiguous_output": "The output can be read in two ways; say `task`, or `output`.",
    "bad_name": "A name in the graph cannot be kept.",
    "columns_mismatch": "`columns` and the model's input have different lengths.",
    "cyclic_graph": "The graph needs what is made from it.",
    "declared_size": "The graph declares a tensor that is larger than is allowed.",
    "duplicate_name": "Two tensors of the graph have one name.",
    "external_data": "The weights lie in a second file, which is missing or another one; send both, or one file.",
    "features_not_found": "No last linear layer was found; say `features`.",
    "fixed_batch": "The batch is fixed inside the graph, or its rows are not independent.",
    "grows_faster_than_rows": "Memory grows faster than the number of rows.",
    "import_mismatch": "The imported network computes something else than the file.",
    "invalid_graph": "The graph cannot be run.",
    "multilabel_unsupported": "Several independent sigmoids: labels that do not exclude each other.",
    "needs_graph": "The file holds weights without a graph, which client and command line convert on your machine.",
    "no_classifier_output": "No output looks like class scores.",
    "non_finite_weights": "A weight is NaN or infinite.",
    "not_onnx": "The file is no ONNX file.",
    "not_runnable": "ONNX Runtime cannot run the file.",
    "padding_mismatch": "`padding` names an input that the model has not.",
    "quantized": "The graph is quantized; export it in floating point.",
    "several_outputs": "Several outputs look like class scores; say `output`.",
    "size_depends_on_values": "The size of a tensor depends on values, without a bound.",
    "too_deep": "The graph is nested too deeply.",
    "too_large_for_onnx": "The network is larger than an ONNX file may be.",
    "too_many_nodes": "The graph has more nodes than are read.",
    "truncated": "The file ends too early; send it again.",
    "unknown_features": "The graph has no such tensor, or it has no row of features.",
    "unknown_output": "The graph has no such output.",
    "unsupported_input": "An input has a type or shape that is not read.",
    "unsupported_operator": "An operator of the graph is not supported.",
    "unsupported_opset": "The operator set is too old or too new.",
    "unsupported_type": "A tensor of the graph has a type that is not supported.",
}

#: Files of datasets and of scores.
DATASET_CODES = {
    "ambiguous_scores": "Both logits and probabilities came.",
    "animated_image": "An image has several frames.",
    "archive_bomb": "The archive unpacks to far more than it is large.",
    "archive_too_large": "The archive holds more, or larger, files than are read.",
    "bad_class_names": "`class_names` in the file are not different names.",
    "bad_columns": "Columns cannot be read.",
    "bad_labels": "Labels are neither texts nor whole numbers.",
    "bad_layout": "The folders are not `class/file` or `split/class/file`.",
    "bad_metadata": "`metadata.csv` does not fit the images.",
    "bad_padding": "`padding` does not fit the columns.",
    "bad_role": "A role cannot be played by its column.",
    "bad_scores": "The scores are no numbers, or no matrix with a column for each class.",
    "bad_shape": "An array has a shape that is not read.",
    "bad_split_shares": "The shares cannot be drawn from these rows.",
    "bad_time": "The role `time` holds what is no time.",
    "bad_weights": "The role `weight` holds what is no weight.",
    "class_names_needed": "Labels are numbers beyond the columns; say `class_names`.",
    "corrupt_image": "An image cannot be decoded.",
    "duplicate_column": "Two columns have one name.",
    "empty": "There are no rows.",
    "encrypted": "The file is encrypted.",
    "format_mismatch": "The content is not of the given `format`.",
    "group_crosses_splits": "Rows of one group lie in several splits.",
    "image_too_large": "An image has more pixels than are read.",
    "labels_out_of_range": "A label is below zero or beyond the classes.",
    "length_mismatch": "Arrays have different numbers of rows.",
    "no_inputs": "There are no inputs beside the roles.",
    "no_label": "No column is the label; say `roles`.",
    "no_scores": "There is no score, no signal, and there are no logits or probabilities.",
    "non_finite": "A number is NaN or infinite.",
    "non_finite_answers": "The model answers NaN for these rows.",
    "non_numeric_column": "A column without a role holds no numbers.",
    "not_an_image": "A file is no image.",
    "not_probabilities": "Rows of probabilities are not between 0 and 1, or do not sum to 1.",
    "object_array": "An array holds Python objects.",
    "one_class": "All labels are the same.",
    "ragged": "Lists of a column have different lengths; say `padding`.",
    "rows_seen": "Rows of a judging split were seen in training.",
    "split_too_small": "A split has too few rows.",
    "too_few_rows": "There are too few rows to learn anything from.",
    "too_many_classes": "There are more classes than are judged.",
    "too_many_rows": "There are more rows than are read.",
    "unknown_method": "There is no calibrator with this name.",
    "unknown_role": "There is no such role.",
    "unknown_role_column": "A role names a column that is not there.",
    "unknown_split": "The role `split` holds a word that is no split.",
    "unlabelled_dataset": "The rows have no labels.",
    "unsafe_archive": "The archive holds paths that lead out of it.",
    "unsuitable_method": "The calibrator cannot be fitted on these scores.",
    "unsupported_compression": "A compression that is not read.",
    "unsupported_image": "An image of a kind that is not read.",
    "weights_too_uneven": "A few rows have nearly all of the weight.",
    "wrong_bit_depth": "An image has another bit depth than `preprocessing` says.",
    "wrong_size": "An image has another size than the others, and nothing resizes it.",
}

#: Files of either kind.
FILE_CODES = {
    "class_names_mismatch": "`class_names` and what the file holds have different lengths.",
    "corrupt": "The file is damaged.",
    "too_large": "The file, or what it holds, is larger than is read.",
    "unsafe_format": "The file could run code when it is opened (pickle); export ONNX, or save arrays.",
    "unsupported_dtype": "Values have a type that is not read.",
    "unsupported_format": "The content is in no format that is read.",
}

#: Jobs and batches, which bring a model and rows together.
JOB_CODES = {
    "baseline_mismatch": "The uploaded model misses `expected_accuracy` by far: label order or preprocessing is wrong.",
    "card_failed": "A GPU failed while it computed; work is tried again, and ends as `poisoned`.",
    "card_too_small": "A GPU's memory does not hold the network; a job goes on on the CPU, with this as a warning.",
    "class_mismatch": "The classes of model and dataset differ.",
    "class_priors_mismatch": "`class_priors` are of other classes.",
    "constant_answers": "All rows have the same answer, or the same class.",
    "constant_column": "A column on which the answers depend has one value in all rows.",
    "dataset_deleted": "The dataset was deleted.",
    "dataset_rejected": "Inspection has rejected the dataset.",
    "typicality_parity": "The written file does not repeat the typicality of rows.",
    "few_rows": "Fewer than 25 rows calibrate.",
    "input_channels": "Channels look swapped.",
    "input_columns": "Columns look swapped, or in another unit.",
    "input_scale": "Inputs look scaled in another way than the model was trained with.",
    "input_tokens": "Tokens look to be of another tokenizer.",
    "inputs_mismatch": "The inputs of model and dataset differ.",
    "inputs_refused": "The model cannot compute these rows.",
    "label_order": "Labels look permuted.",
    "labels_from_one": "Labels look to begin at one.",
    "model_deleted": "The model was deleted.",
    "model_rejected": "Inspection has rejected the model.",
    "non_finite_output": "The model answers NaN for a row.",
    "parity": "The written file differs from the network.",
    "preprocessing_mismatch": "Rows do not fit the model's `preprocessing`.",
    "preprocessing_needed": "Rows are images, and the model has no `preprocessing`.",
    "provenance_needed": "The dataset lacks a word on which rows the model was trained on.",
    "softmax_twice": "The softmax is taken of probabilities.",
    "training_rows": "The model has probably been trained on the rows that calibrate.",
    "warning_not_given": "`accept_warnings` names a warning that there is not.",
    "worse_than_frequencies": "The answers tell nothing of the labels.",
}

#: Codes of jobs that scores are refused with, too.
REFUSED_SCORES = (
    *("class_priors_mismatch", "label_order", "labels_from_one", "softmax_twice", "training_rows", "warning_not_given"),
    "worse_than_frequencies",
)

#: Work of any kind, when it does not come to its end.
WORK_CODES = {
    "internal_error": "An unexpected error on our side.",
    "out_of_memory": "It took more memory than is allowed, or than there is.",
    "poisoned": "Every attempt has ended its process.",
    "storage_full": "The disk took no more.",
    "timeout": "It took longer than is allowed.",
    "worker_unfit": "The worker can open no upload: a library does not load, or its limits are too low. Send it again.",
}

RECORD_CODES = {**MODEL_CODES, **DATASET_CODES, **FILE_CODES, **JOB_CODES, **WORK_CODES}
