"""FedLAS+ as the loss of a transformer under Hugging Face's Trainer, which stays as it is: the model computes the loss.

Run: python examples/transformers_trainer.py   (in a clone: pip install '.[library]' transformers accelerate)
A tiny BERT made from a configuration, on made-up sentences; nothing is downloaded.
"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

import fedlas


class Sentences(Dataset):
    """Twelve tokens each; the class is which third of the vocabulary occurs most, and every tenth label is wrong."""

    def __init__(self, rows: int, seed: int) -> None:
        chance = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, 30, (rows, 12), generator=chance)
        self.labels = torch.stack([(self.tokens // 10 == k).sum(1) for k in range(3)], 1).argmax(1)
        wrong = torch.rand(rows, generator=chance) < 0.1
        self.labels[wrong] = torch.randint(0, 3, (int(wrong.sum()),), generator=chance)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        mask = torch.ones(12, dtype=torch.int64)
        return {"input_ids": self.tokens[row], "attention_mask": mask, "labels": self.labels[row]}


class Calibratable(BertForSequenceClassification):
    """BERT whose loss reads the features beside the logits."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.loss = fedlas.FedLASPlusLoss(num_classes=config.num_labels)

    def forward(self, input_ids, attention_mask=None, labels=None) -> SequenceClassifierOutput:
        features = self.bert(input_ids, attention_mask=attention_mask).pooler_output
        logits = self.classifier(features)
        loss = None if labels is None else self.loss(logits, labels, features)
        return SequenceClassifierOutput(loss=loss, logits=logits)


torch.manual_seed(0)
config = BertConfig(
    vocab_size=30, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=3
)
model = Calibratable(config)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=8,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trained = Trainer(model, arguments, train_dataset=Sentences(800, seed=0)).train()

result = fedlas.calibrate(model, None, Sentences(500, seed=1), Sentences(700, seed=2), method="temperature")
metrics = result.report.metrics
print(f"training loss {trained.training_loss:.3f}")
print(f"NLL {metrics['uploaded']['nll'].value:.3f} -> {metrics['calibrated']['nll'].value:.3f}")
print(f"verdict: {result.verdict}")
