"""Which tokens are learnt, counted by hand; the loss against transformers' own."""

import pytest
import torch
from torch.nn.functional import log_softmax
from transformers.loss.loss_utils import ForCausalLMLoss

from megatron_r1.data.chat_template import get_template
from megatron_r1.data.chats import chat_sequences
from megatron_r1.data.packing import pack
from megatron_r1.data.tokenizers.tokenizer import TokenizerConfig, TokenizerTraining, load_tokenizer
from megatron_r1.stages.train_loop import next_token_loss
from megatron_r1.types import Document, Message

MINIMAL = get_template("minimal")
VOCABULARY = 64


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    config = TokenizerConfig(
        kind="sentencepiece", train=TokenizerTraining(source="arithmetic", vocab_size=64, model_type="word")
    )
    pieces = [*MINIMAL.required_pieces, *get_template("deepseek").required_pieces]
    return load_tokenizer(config, required_pieces=pieces, directory=tmp_path_factory.mktemp("tokenizer"))


def chat(*contents):
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], text) for i, text in enumerate(contents[:-1]))
    return Document(messages, contents[-1])


TWO_TURNS = chat("1 + 1", "<think> 1 plus 1 is 2 ; </think> 2", "2 + 3", "5")


def learnt(sequence, tokenizer):
    """The learnt tokens as text, EOS shown."""
    ids = sequence.token_ids[sequence.weights > 0].tolist()
    return " ".join("<eos>" if i == tokenizer.eos_id else tokenizer.decode([i]).strip() for i in ids)


def test_the_answer_is_learnt_with_its_end_and_nothing_else(tokenizer):
    (sequence,) = chat_sequences(chat("compute 1 + 1", "2"), MINIMAL, tokenizer)
    # <bos> <user> compute 1 + 1 <assistant> | 2 <eos>
    assert sequence.weights.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert learnt(sequence, tokenizer) == "2 <eos>"


def test_of_several_answers_the_last_is_learnt(tokenizer):
    (sequence,) = chat_sequences(TWO_TURNS, MINIMAL, tokenizer)
    assert learnt(sequence, tokenizer) == "5 <eos>"


def test_every_answer_is_learnt_in_one_sequence_where_history_is_shown_as_it_was(tokenizer):
    (sequence,) = chat_sequences(TWO_TURNS, MINIMAL, tokenizer, answers="every")
    # <bos> <user> 1 + 1 <assistant> | ten tokens, <eos> the last | <user> 2 + 3 <assistant> | 5 <eos>
    assert sequence.weights.tolist() == [0.0] * 6 + [1.0] * 10 + [0.0] * 5 + [1.0] * 2
    assert learnt(sequence, tokenizer) == "<think> 1 plus 1 is 2 ; </think> 2 <eos> 5 <eos>"
    (last,) = chat_sequences(TWO_TURNS, MINIMAL, tokenizer)
    assert sequence.token_ids.tolist() == last.token_ids.tolist()


def test_where_history_loses_its_reasoning_each_answer_is_a_sequence_of_its_own(tokenizer):
    deepseek = get_template("deepseek")
    first, second = chat_sequences(TWO_TURNS, deepseek, tokenizer, answers="every")
    assert learnt(first, tokenizer) == "<think> 1 plus 1 is 2 ; </think> 2 <eos>"
    assert learnt(second, tokenizer) == "5 <eos>"
    given = second.token_ids[second.weights == 0].tolist()
    assert given == deepseek.prompt_ids(TWO_TURNS.messages, tokenizer)  # as it is when the model answers
    assert tokenizer.piece_id("<think>") not in given


def test_plain_text_is_learnt_whole(tokenizer):
    (sequence,) = chat_sequences(Document((), "1 plus 1 is 2"), MINIMAL, tokenizer, answers="every")
    assert sequence.weights.tolist() == [0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("answers", ["last", "every"])
def test_the_loss_and_its_gradient_are_transformers_cross_entropy_of_the_masked_labels(tokenizer, answers):
    documents = [chat("compute 7 + 8 - 2", "<think> 7 plus 8 is 15 ; </think> 13"), TWO_TURNS, chat("1", "2")]
    sequences = [s for d in documents for s in chat_sequences(d, MINIMAL, tokenizer, answers=answers)]
    scores = torch.randn(len(sequences), 64, VOCABULARY, generator=torch.Generator().manual_seed(0))

    theirs = scores.clone().requires_grad_()
    labels = torch.full(theirs.shape[:2], -100)
    for row, sequence in enumerate(sequences):
        ids, weights = sequence.token_ids, sequence.weights
        labels[row, : len(ids)] = torch.where(weights > 0, ids, -100)
    expected = ForCausalLMLoss(theirs, labels, VOCABULARY)
    expected.backward()

    ours = scores.clone().requires_grad_()
    packing = pack(sequences, max_tokens=40)  # several packs, several chats in a pack
    assert len(packing.batches) == 2
    total = sum(float(s.weights.sum()) for s in sequences)
    loss = torch.zeros(())
    for number, batch in enumerate(packing.batches):
        logits = torch.zeros(len(batch.tokens), VOCABULARY)
        for row, place in enumerate(packing.places):
            if place.pack == number:
                rows = torch.arange(place.start, place.start + place.length)
                logits = logits.index_put((rows,), ours[row, : place.length])
        logprobs = log_softmax(logits, -1).gather(1, batch.labels[:, None]).squeeze(1)
        per_token, _ = next_token_loss(logprobs, None, batch)
        loss = loss + (per_token * batch.weights / total).sum()
    loss.backward()

    torch.testing.assert_close(loss, expected)
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
