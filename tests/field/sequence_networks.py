"""Small networks that read sequences as those of the last years do."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, CLASSES, WORDS = 6, 5, 11


class SelectiveStateSpace(nn.Module):
    """Mamba's block: a gated recurrence whose step sizes depend on the input. `[N, T, WIDTH]` to logits."""

    def __init__(self, states: int = 4) -> None:
        super().__init__()
        inner = 2 * WIDTH
        self.states, self.norm = states, nn.RMSNorm(WIDTH)
        self.enter = nn.Linear(WIDTH, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, 3, groups=inner, padding=2)
        self.select, self.step = nn.Linear(inner, 2 + 2 * states, bias=False), nn.Linear(2, inner)
        self.log_decay = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.leave, self.head = nn.Linear(inner, WIDTH, bias=False), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        h, gate = self.enter(self.norm(x)).chunk(2, -1)
        h = F.silu(self.conv(h.transpose(1, 2))[..., :length].transpose(1, 2))
        step, into, out = self.select(h).split([2, self.states, self.states], -1)
        step = F.softplus(self.step(step))
        decay = torch.exp(torch.einsum("nti,is->ntis", step, -self.log_decay.exp()))
        given = torch.einsum("nti,nts,nti->ntis", step, into, h)
        state, read = torch.zeros_like(given[:, 0]), []
        for t in range(length):
            state = decay[:, t] * state + given[:, t]
            read.append(torch.einsum("nis,ns->ni", state, out[:, t]))
        y = (torch.stack(read, 1) + h * self.skip) * F.silu(gate)
        return self.head((x + self.leave(y)).mean(1))


class WeightedKeyValue(nn.Module):
    """RWKV's time mixing, with the running maximum that keeps its exponentials in range."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.norm = nn.ZeroPad2d((0, 0, 1, -1)), nn.LayerNorm(WIDTH)
        self.mix = nn.ParameterDict({n: nn.Parameter(torch.rand(1, 1, WIDTH)) for n in "kvr"})
        self.decay, self.first = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.k, self.v, self.r, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        before = self.shift(y)
        mixed = {n: y * share + before * (1 - share) for n, share in self.mix.items()}
        k, v, r = self.k(mixed["k"]), self.v(mixed["v"]), torch.sigmoid(self.r(mixed["r"]))
        decay, out = -torch.exp(self.decay), []
        above, below = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0])
        largest = torch.full_like(above, -1e38)
        for key, value in zip(k.unbind(1), v.unbind(1)):
            top = torch.maximum(largest, self.first + key)
            old, new = torch.exp(largest - top), torch.exp(self.first + key - top)
            out.append((old * above + new * value) / (old * below + new))
            top = torch.maximum(largest + decay, key)
            old, new = torch.exp(largest + decay - top), torch.exp(key - top)
            above, below, largest = old * above + new * value, old * below + new, top
        return self.head((x + self.o(r * torch.stack(out, 1))).mean(1))


class GatedMatrixMemory(nn.Module):
    """xLSTM's matrix memory in its parallel form: forget gates added up in logarithms below a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, 4) for _ in range(3))
        self.forget, self.enter, self.head = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        kept = F.logsigmoid(self.forget(x)).cumsum(1)
        weight = (kept[:, :, None] - kept[:, None] + self.enter(x)[:, None]).squeeze(-1)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        weight = weight.masked_fill(~causal, -torch.inf)
        top = weight.max(-1, keepdim=True).values
        scores = self.q(x) @ self.k(x).transpose(1, 2) / 2 * torch.exp(weight - top)
        size = torch.maximum(scores.sum(-1, keepdim=True).abs(), torch.exp(-top))
        return self.head((scores / size) @ self.v(x)).mean(1)


class GroupedQueries(nn.Module):
    """Four heads of queries over two of keys and values, masked in one of several ways."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head, self.mask = nn.Linear(16, CLASSES), mask

    def forward(self, x: Tensor) -> Tensor:
        samples, length, _ = x.shape
        q, k, v = (f(x).view(samples, length, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        at = torch.arange(length)
        how = {
            "causal": {"is_causal": True},
            "window": {"attn_mask": (at[:, None] - at).abs() < 2},
            "distance": {"attn_mask": -0.5 * (at[:, None] - at).abs().to(x.dtype), "scale": 0.3},
            "nothing for the first": {"attn_mask": at[:, None] > at},
        }[self.mask]
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **how)  # pyright: ignore
        return self.head(out.transpose(1, 2).reshape(samples, length, 16)).mean(1)


class SpeechToText(nn.Module):
    """Whisper's form: convolutions over a spectrogram, fixed positions, a decoder, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(6, 8, 3, padding=1), nn.Conv1d(8, 8, 3, stride=2, padding=1)
        self.register_buffer("positions", torch.randn(5, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.words, self.places, self.norm = (
            nn.Embedding(WORDS, 8),
            nn.Parameter(torch.randn(4, 8)),
            nn.LayerNorm(8),
        )

    def forward(self, spectrogram: Tensor, words: Tensor) -> Tensor:
        h = F.gelu(self.second(F.gelu(self.first(spectrogram)))).permute(0, 2, 1)
        h = self.encoder((h + self.positions).to(h.dtype))
        y = self.words(words) + self.places[: words.shape[-1]]
        mask = torch.empty(words.shape[1], words.shape[1]).fill_(-math.inf).triu_(1)
        y = self.norm(self.decoder(y, h, tgt_mask=mask.to(y.dtype)))
        return y @ self.words.weight.to(y.dtype).transpose(0, 1)


class Translator(nn.Module):
    """`nn.Transformer` with a causal mask, padding, and one table for both languages and the head."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.body = nn.Transformer(8, 2, 1, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        words, padding, length = self.words.weight, source == 0, target.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, dtype=words.dtype)
        read = self.body(
            self.words(source),
            self.words(target),
            tgt_mask=mask,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.head(read / math.sqrt(8))


class AlignedTranslator(nn.Module):
    """A GRU that decodes word by word, with additive attention over a bidirectional one."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.encoder = nn.Embedding(WORDS, 6), nn.GRU(6, 6, batch_first=True, bidirectional=True)
        self.score, self.weigh = nn.Linear(18, 6), nn.Linear(6, 1, bias=False)
        self.begin, self.cell, self.head = nn.Linear(6, 6), nn.GRUCell(18, 6), nn.Linear(24, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        h, last = self.encoder(self.words(source))
        state, out = torch.tanh(self.begin(last[-1])), []
        for word in self.words(target).unbind(1):
            asked = torch.cat([state.unsqueeze(1).expand(-1, h.size(1), -1), h], -1)
            share = self.weigh(torch.tanh(self.score(asked))).softmax(1)
            found = torch.bmm(share.transpose(1, 2), h).squeeze(1)
            state = self.cell(torch.cat([word, found], 1), state)
            out.append(self.head(torch.cat([state, found, word], 1)))
        return torch.stack(out, 1)


class Tagger(nn.Module):
    """Scores of tags, and a conditional random field over them: its forward algorithm is the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.moves = nn.Linear(WIDTH, CLASSES), nn.Parameter(torch.randn(CLASSES, CLASSES) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x)

    def loss(self, x: Tensor, tags: Tensor) -> Tensor:
        scores = self(x)
        every = scores[:, 0]
        for t in range(1, x.shape[1]):
            every = torch.logsumexp(every[:, :, None] + self.moves, 1) + scores[:, t]
        given = scores.gather(2, tags[..., None]).sum((1, 2)) + self.moves[tags[:, :-1], tags[:, 1:]].sum(1)
        return (every.logsumexp(1) - given).mean()
