"""OpenAI's Python SDK against a server: shapes and laws that hold for any model."""

import sys

import openai

url = sys.argv[1]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
model = client.models.list().data[0].id
QUESTION = [{"role": "user", "content": "What is 2+2?"}]


def chat(**more):
    return client.chat.completions.create(model=model, messages=QUESTION, **{"temperature": 0, "max_tokens": 24, **more})


def whole_chat():
    reply = chat()
    assert reply.object == "chat.completion" and reply.model == model and reply.id
    choice = reply.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert 0 < reply.usage.completion_tokens <= 24
    return choice.message.content


def streamed_chat(text):
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")


def stream_helper(text):
    with client.chat.completions.stream(model=model, messages=QUESTION, temperature=0, max_tokens=24) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        assert "".join(deltas) == text
        try:
            assert stream.get_final_completion().choices[0].message.content == text
        except openai.LengthFinishReasonError as error:
            assert error.completion.choices[0].message.content == text


def scores():
    content = chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert content and all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in content)
    assert all(token.bytes is not None for token in content)


def two_replies():
    choices = chat(n=2, temperature=1, seed=3).choices
    assert [choice.index for choice in choices] == [0, 1]
    again = chat(n=2, temperature=1, seed=3).choices
    assert [choice.message.content for choice in choices] == [choice.message.content for choice in again]


def stops(text):
    stop = text[len(text) // 2 :][:3]
    reply = chat(stop=[stop, "\N{SNOWMAN}"]).choices[0]
    assert reply.message.content == text[: text.index(stop)] and reply.finish_reason == "stop"


def raw_completion():
    reply = client.completions.create(model=model, prompt="Once upon", max_tokens=5, echo=True, logprobs=2, temperature=0)
    choice = reply.choices[0]
    assert choice.text.startswith("Once upon")
    assert len(choice.logprobs.tokens) == reply.usage.total_tokens == len(choice.logprobs.text_offset)
    assert choice.logprobs.token_logprobs[0] is None and choice.logprobs.token_logprobs[1] <= 0
    parts = client.completions.create(model=model, prompt=["Once", "Twice"], max_tokens=3, stream=True)
    assert {part.choices[0].index for part in parts if part.choices} == {0, 1}


def raised(kind, call, **facts):
    try:
        call()
    except kind as error:
        for name, value in facts.items():
            assert getattr(error, name) == value, (name, getattr(error, name), value)
    else:
        raise AssertionError(f"no {kind.__name__}")


def errors():
    raised(openai.BadRequestError, lambda: chat(temperature=9), param="temperature", type="invalid_request_error")
    raised(openai.BadRequestError, lambda: chat(extra_body={"kv_bits": 3}), code="invalid_kv_bits")
    raised(openai.BadRequestError, lambda: chat(response_format={"type": "json_object"}), param="response_format")
    long = [{"role": "user", "content": "word " * 400_000}]
    call = lambda: client.chat.completions.create(model=model, messages=long)
    raised(openai.BadRequestError, call, code="context_length_exceeded")
    raised(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"), code="model_not_found")
    raised(openai.NotFoundError, lambda: client.post("/nowhere", cast_to=object), code="not_found")


content = whole_chat()
streamed_chat(content)
stream_helper(content)
scores()
two_replies()
stops(content)
raw_completion()
errors()
assert client.models.retrieve(model).id == model
print(f"openai {openai.__version__} for Python: all checks pass")
