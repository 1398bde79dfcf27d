"""What is learnt of conversations, by chat templates of several makes."""

import json

import pytest
from tokenizers import AddedToken

from gallop_ray.tasks.chat import takes_system
from gallop_ray.tasks.encode import IGNORED, encode, encode_options, encode_prompt
from gallop_ray.tasks.examples import Example, Message
from tests.tasks.test_boundary import byte_level

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
ASKED = "{% if add_generation_prompt %}assistant: {% endif %}"
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + ASKED
THINKING = CHATML.replace(
    "{{ m.content }}",
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
)
MARKERS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<bos>"]
MARKERS += ["<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]
TALK = (
    ("system", "Be kind."),
    ("user", "is it so?"),
    ("assistant", "yes!"),
    ("user", "12?"),
    ("assistant", "no, it is"),
)
LEARNT = {
    "chatml": (CHATML, ["yes!<|im_end|>", "no, it is<|im_end|>"]),
    "marked": (MARKED, ["yes!<|im_end|>", "no, it is<|im_end|>"]),
    "llama3": (LLAMA3, ["yes!<|eot_id|>", "no, it is<|eot_id|>"]),
    "gemma": (GEMMA, ["yes!<end_of_turn>", "no, it is<end_of_turn>"]),
    "mistral": (MISTRAL, [" yes!<end>", " no, it is<end>"]),
    "plain": (PLAIN, [" yes!\n", " no, it is<end>"]),
    "thinking": (THINKING, ["yes!<|im_end|>", "<think>\n\n</think>\n\nno, it is<|im_end|>"]),
}


def tokenizer_with(template: str):
    tokenizer = byte_level(bos_token="<bos>")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(each, normalized=False) for each in MARKERS]}
    )
    tokenizer.chat_template = template
    return tokenizer


def talk(turns=TALK, **fields) -> Example:
    messages = tuple(Message(role, content) for role, content in turns)
    return Example("", "", (turns[-1][1],), (), 0, messages=messages, place="talk.jsonl:3", **fields)


def learnt(item, tokenizer) -> list[str]:
    """The texts of the tokens that have a loss, those that follow each other together."""
    runs, before = [], IGNORED
    for label in item.labels:
        if label != IGNORED:
            runs = [*runs, [label]] if before == IGNORED else [*runs[:-1], [*runs[-1], label]]
        before = label
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("name", LEARNT)
def test_what_is_learnt_is_what_the_assistant_says_and_how_it_ends(name):
    template, said = LEARNT[name]
    tokenizer = tokenizer_with(template)
    whole = encode(talk(), tokenizer, "chat", 200)
    assert learnt(whole, tokenizer) == said
    last = encode(talk(), tokenizer, "chat", 200, "last")
    assert last.input_ids == whole.input_ids
    assert learnt(last, tokenizer) == said[-1:]
    begins = next(i for i, label in enumerate(last.labels) if label != IGNORED)
    assert encode_prompt(talk(), tokenizer, "chat", 200) == last.input_ids[:begins]
    encoded = encode_options(talk(TALK[1:]), tokenizer, "chat", 200)
    assert tokenizer.decode(encoded.ended(0)).strip() == said[-1].removeprefix("<think>\n\n</think>\n\n").strip()


@pytest.mark.parametrize("template", [GEMMA, MISTRAL], ids=["refused", "left out"])
def test_a_system_message_that_the_template_does_not_take_goes_before_the_first_question_and_is_said_once(
    template, caplog
):
    takes_system.cache_clear()
    tokenizer = tokenizer_with(template)
    texts = [tokenizer.decode(encode(talk(), tokenizer, "chat", 200).input_ids) for _ in range(2)]
    assert "Be kind.\n\nis it so?" in texts[0]
    assert [each.message for each in caplog.records] == [
        "the model's chat template takes no system message: it is put before the first user's turn"
    ]


def test_templates_that_take_a_system_message_are_given_it():
    for template in (CHATML, LLAMA3, PLAIN):
        tokenizer = tokenizer_with(template)
        assert "Be kind.\n\nis" not in tokenizer.decode(encode(talk(), tokenizer, "chat", 200).input_ids)


def test_tool_calls_and_tools_are_given_to_the_template_as_they_are():
    template = (
        "{% for t in tools %}<{{ t.function.name }}>{% endfor %}{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls %}[{{ c.function.name }} {{ c.function.arguments.city }}]{% endfor %}"
        "{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    call = json.dumps({"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]})
    messages = (
        Message("user", "Rain?"),
        Message("assistant", "", call),
        Message("tool", "no", json.dumps({"tool_call_id": "7"})),
        Message("assistant", "It is dry."),
    )
    tools = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {}}}])
    tokenizer = tokenizer_with(template)
    item = encode(Example("", "", ("It is dry.",), (), 0, messages=messages, tools=tools), tokenizer, "chat", 300)
    assert learnt(item, tokenizer) == ["[weather Rome]<|im_end|>", "It is dry.<|im_end|>"]
    assert tokenizer.decode(item.input_ids).startswith("<weather>user:Rain?")
    assert "tool:no(7)<|im_end|>" in tokenizer.decode(item.input_ids)


@pytest.mark.parametrize("template", [CHATML, MARKED, LLAMA3], ids=["chatml", "marked", "llama3"])
def test_turns_that_are_only_read_are_not_learnt(template):
    turns = tuple(Message(role, f"text {i}", learnt=i != 1) for i, role in enumerate(("user", "assistant") * 3))
    tokenizer = tokenizer_with(template)
    item = encode(Example("", "", ("text 5",), (), 0, messages=turns), tokenizer, "chat", 300)
    assert [each.partition("<|")[0] for each in learnt(item, tokenizer)] == ["text 3", "text 5"]
    assert "text 1" in tokenizer.decode(item.input_ids)


ZEPHYR = (
    "{% for m in messages %}{% if m.role in ('user', 'system', 'assistant') %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = json.dumps({"tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]})
WEATHER = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {}}}])
ASK, DRY = Message("user", "Rain?"), Message("assistant", "It is dry.")
THOUGHT = Message("assistant", "no", json.dumps({"reasoning_content": "Rome is dry."}))
LOST = {
    "tool": (ZEPHYR, (ASK, Message("tool", "12 mm"), DRY), "", r"turn 2 \(tool\)"),
    "tool call": (ZEPHYR, (ASK, Message("assistant", "", CALL)), "", "the call of the tool 'weather' in turn 2"),
    "tools": (CHATML, (ASK, DRY), WEATHER, "the tool 'weather' of `tools`"),
    "later system": (
        LLAMA3.replace(
            "{% for m in messages %}", "{% for m in messages if loop.index == 1 or m.role != 'system' %}"
        ).replace("loop.index == 1 or ", ""),
        (ASK, Message("system", "Be kind."), DRY),
        "",
        r"turn 2 \(system\)",
    ),
    "thought": (CHATML, (ASK, THOUGHT), "", "reasoning_content of turn 2"),
    "thoughts in what is learnt": (
        MARKED.replace("{% generation %}{{ m.content }}", "{% generation %}{{ m.content.split('</think>')[-1] }}"),
        (ASK, Message("assistant", "<think>hm</think>yes")),
        "",
        r"turn 2 \(assistant\)",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_what_the_template_does_not_write_is_refused(name):
    template, messages, tools, said = LOST[name]
    talk = Example("", "", (messages[-1].content or "x",), (), 0, messages=messages, tools=tools, place="t.jsonl:3")
    with pytest.raises(ValueError, match=rf"^t\.jsonl:3: the chat template does not write {said}; take"):
        encode(talk, tokenizer_with(template), "chat", 300)


def test_what_is_asked_is_refused_alike():
    template, messages, *_ = LOST["tool"]
    with pytest.raises(ValueError, match=r"^t\.jsonl:3: the chat template does not write turn 2"):
        encode_prompt(
            Example("", "", ("x",), (), 0, messages=messages, place="t.jsonl:3"), tokenizer_with(template), "chat", 300
        )


def test_a_template_may_trim_write_json_and_leave_out_thoughts_that_are_only_read():
    template = (
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'tool' %}{{ m.content | tojson }}{% elif loop.last %}"
        "{{ m.content }}{% else %}{{ m.content.split('</think>')[-1] | trim }}{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    messages = (
        Message("user", " Rain?\n\nToday? "),
        Message("assistant", "<think>hm</think>\n\nWait.", learnt=False),
        Message("tool", '{"rain": "é\\n"}\n'),
        Message("assistant", "<think>dry</think> no"),
    )
    tokenizer = tokenizer_with(template)
    item = encode(Example("", "", ("no",), (), 0, messages=messages), tokenizer, "chat", 300)
    assert learnt(item, tokenizer) == ["<think>dry</think> no<|im_end|>"]


@pytest.mark.parametrize("written", ["tojson", "string", "escaped"])
@pytest.mark.parametrize("given", [{"b": "Rome", "a": 1}, '{"b": "Rome", "a": 1}'], ids=["mapping", "json"])
def test_arguments_of_tool_calls_are_written_once_and_in_their_order(written, given):
    how = {
        "tojson": "{{ c.function.arguments | tojson }}",
        "string": "{{ c.function.arguments }}",
        "escaped": "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}",
    }[written]
    template = CHATML.replace(
        "{{ m.content }}",
        f"{{{{ m.content }}}}{{% for c in m.tool_calls %}}{{{{ c.function.name }}}}{how}{{% endfor %}}",
    )
    more = json.dumps({"tool_calls": [{"function": {"name": "weather", "arguments": given}}]})
    tokenizer = tokenizer_with(template)
    messages = (ASK, Message("assistant", "", more))
    item = encode(Example("", "", ("x",), (), 0, messages=messages), tokenizer, "chat", 300)
    assert learnt(item, tokenizer) == ['weather{"b": "Rome", "a": 1}<|im_end|>']


def test_of_several_templates_the_usual_one_is_taken_and_that_for_tools_with_tools():
    tokenizer, plain = tokenizer_with(CHATML), tokenizer_with(CHATML)
    tool_use = "{% for t in tools %}<{{ t.function.name }}>{% endfor %}" + MARKED
    tokenizer.chat_template = {"default": CHATML, "tool_use": tool_use}
    assert encode(talk(), tokenizer, "chat", 300) == encode(talk(), plain, "chat", 300)
    assert encode_prompt(talk(), tokenizer, "chat", 300) == encode_prompt(talk(), plain, "chat", 300)
    with_tools = encode(talk(tools=WEATHER), tokenizer, "chat", 300)
    assert tokenizer.decode(with_tools.input_ids).startswith("<weather>")
    assert learnt(with_tools, tokenizer) == LEARNT["marked"][1]


def test_a_developer_is_the_system_where_the_template_knows_no_developer():
    messages = (Message("developer", "Be kind."), Message("user", "Why?"), Message("assistant", "So."))
    for template, said in (
        (CHATML, "developer\nBe kind."),
        (ZEPHYR, "system\nBe kind."),
        (MISTRAL, "Be kind.\n\nWhy?"),
    ):
        tokenizer = tokenizer_with(template)
        item = encode(Example("", "", ("So.",), (), 0, messages=messages), tokenizer, "chat", 300)
        assert said in tokenizer.decode(item.input_ids)


def test_turns_that_the_template_does_not_tell_apart_are_refused_with_place_and_fix():
    numbered = "{{ messages | length }}{% for m in messages %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    for template, said in (
        (numbered, "begins turn 3, the assistant's, otherwise than it asks"),
        (None, "a conversation needs a chat template"),
        (MARKED.replace("== 'assistant'", "== 'nobody'"), "marks nothing as the assistant's"),
    ):
        with pytest.raises(ValueError, match=said) as refused:
            encode(talk(), tokenizer_with(template), "chat", 200)
        assert str(refused.value).startswith("talk.jsonl:3: ")


def test_a_long_conversation_loses_its_left_but_never_its_answer():
    tokenizer = tokenizer_with(LLAMA3)
    whole = encode(talk(), tokenizer, "chat", 200)
    cut = encode(talk(), tokenizer, "chat", 20)
    assert (len(cut.input_ids), cut.cut) == (20, len(whole.input_ids) - 20)
    assert cut.input_ids[0] == tokenizer.bos_token_id
    assert cut.input_ids[1:] == whole.input_ids[-19:]
    assert learnt(cut, tokenizer)[-1] == "no, it is<|eot_id|>"
    with pytest.raises(ValueError, match=r"talk\.jsonl:3: the answer 'no, it is' of \d+ tokens leaves no room in 4 "):
        encode(talk(), tokenizer, "chat", 4)
