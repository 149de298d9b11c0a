"""Conversations for the chat templates: what goes in, nothing of what comes out."""


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content} | more


def call(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}} | more


PROMPT = {"add_generation_prompt": True}
SHORT = [user("Hello there")]
LONG = [
    system("  You are brief.\n"),
    user("What is 2 + 2?"),
    assistant("4"),
    user("  And \"three\" <b>&amp; 'more'</b>?\n\n"),
]
FLOWERS = [
    {
        "type": "function",
        "function": {
            "name": "count_flowers",
            "description": "Counts flowers in a \"bed\" <outdoors> & it's free — naïve 花",
            "parameters": {
                "type": "object",
                "properties": {
                    "bed": {"type": "string", "description": "Which bed", "enum": ["north", "south"]},
                    "limit": {"type": ["integer", "null"], "default": None, "minimum": 0},
                    "ratio": {"type": "number", "default": 0.5, "maximum": 1e20},
                    "colours": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["bed"],
            },
        },
    },
    {"type": "function", "function": {"name": "water", "parameters": {"type": "object", "properties": {}}}},
]
TOOL_TALK = [
    system("Gardener."),
    user("How many?"),
    assistant("", tool_calls=[call("count_flowers", {"bed": "north", "limit": 3, "wet": True, "ratio": 0.1, "x": None})]),
    {"role": "tool", "content": "12", "name": "count_flowers"},
    {"role": "tool", "content": '{"ok": true}'},
    assistant(None, tool_calls=[call("water", '{"litres": 2}'), call("count_flowers", {"bed": "süd"}, id="c1")]),
    {"role": "tool", "content": "done"},
    assistant("Twelve."),
]
THOUGHTS = [
    user("Why?"),
    assistant("<think>\nfirst thought\n</think>\n\nBecause."),
    user("Really?"),
    assistant("Yes.", reasoning_content="\nsecond thought\n"),
    user("<tool_response>\nx\n</tool_response>"),
    assistant("\n\nSure.\n"),
]
PARTS = [
    user(
        [
            {"type": "text", "text": "Look: "},
            {"type": "image"},
            {"type": "text", "text": "and listen"},
            {"type": "audio"},
            {"type": "image", "image": "a.png"},
        ]
    ),
    assistant([{"type": "text", "text": "A heron."}]),
    user("plain"),
    assistant(None),
]
WORDS = [
    user("  the quick, brown fox: jumps/over  "),
    assistant("ÄPFEL straße ǆ İ ŉ"),
    user("a--b--c--d"),
    user("line one\nline two\r\nline three"),
    user(""),
]

CASES = [
    {"template": "chatml.jinja", "messages": SHORT},
    {"template": "chatml.jinja", "messages": SHORT, "kwargs": PROMPT},
    {"template": "chatml.jinja", "messages": LONG, "kwargs": PROMPT},
    {"template": "chatml.jinja", "messages": [system("Only rules.")], "kwargs": PROMPT},
    {"template": "chatml.jinja", "messages": []},
    {"template": "tools.jinja", "messages": TOOL_TALK, "tools": FLOWERS, "kwargs": PROMPT},
    {"template": "tools.jinja", "messages": TOOL_TALK},
    {"template": "tools.jinja", "messages": SHORT, "tools": FLOWERS[1:], "kwargs": PROMPT},
    {"template": "tools.jinja", "messages": SHORT, "tools": []},
    {"template": "tools.jinja", "messages": LONG, "kwargs": {"indent": 4, "tool_style": "table"}, "tools": FLOWERS},
    {"template": "thinking.jinja", "messages": THOUGHTS, "kwargs": PROMPT},
    {"template": "thinking.jinja", "messages": THOUGHTS, "kwargs": PROMPT | {"enable_thinking": False}},
    {"template": "thinking.jinja", "messages": THOUGHTS[:2], "kwargs": PROMPT | {"enable_thinking": True}},
    {"template": "thinking.jinja", "messages": THOUGHTS[:4]},
    {"template": "thinking.jinja", "messages": [THOUGHTS[4]]},
    {"template": "strict.jinja", "messages": LONG, "kwargs": {"bos_token": "<s>", "eos_token": "</s>"}},
    {"template": "strict.jinja", "messages": SHORT, "kwargs": {"bos_token": "<s>", "eos_token": "</s>"}},
    {"template": "strict.jinja", "messages": [user("a"), user("b")], "kwargs": {"bos_token": "<s>"}},
    {"template": "strict.jinja", "messages": [system("x"), assistant("b")]},
    {"template": "strict.jinja", "messages": [user("a"), {"role": "critic", "content": "no \"good\""}]},
    {"template": "strict.jinja", "messages": []},
    {"template": "schema.jinja", "messages": SHORT, "tools": FLOWERS},
    {"template": "schema.jinja", "messages": TOOL_TALK, "tools": FLOWERS[:1], "kwargs": PROMPT},
    {"template": "dates.jinja", "messages": SHORT},
    {"template": "dates.jinja", "messages": LONG, "kwargs": {"date_string": "1 April 1999"}},
    {"template": "loops.jinja", "messages": LONG},
    {"template": "loops.jinja", "messages": TOOL_TALK, "kwargs": {"limit": 2}},
    {"template": "loops.jinja", "messages": []},
    {"template": "parts.jinja", "messages": PARTS},
    {"template": "parts.jinja", "messages": PARTS, "kwargs": PROMPT | {"add_vision_id": True}},
    {"template": "parts.jinja", "messages": [user([{"type": "smell"}])]},
    {"template": "generation.jinja", "messages": LONG, "kwargs": PROMPT},
    {"template": "generation.jinja", "messages": LONG[:3]},
    {"template": "strings.jinja", "messages": WORDS, "kwargs": {"bag": {"b": 2, "a": "one", "": None}}},
    {"template": "rare_strings.jinja", "messages": WORDS},
    {"template": "numbers.jinja", "messages": SHORT, "kwargs": {"n": 7, "x": 2.5, "flag": True, "nothing": None}},
    {"template": "numbers.jinja", "messages": LONG, "kwargs": {"n": -7, "x": 0.125, "flag": False, "nothing": None}},
    {"template": "rare_numbers.jinja", "messages": SHORT, "kwargs": {"n": 7, "x": 1e16}},
    {"template": "whitespace.jinja", "messages": SHORT},
    {"template": "whitespace.jinja", "messages": LONG, "kwargs": PROMPT},
    {"template": "python_repr.jinja", "messages": [user("it's"), user('a "b"')], "tools": FLOWERS},
    {"template": "undefined.jinja", "messages": SHORT},
    {"template": "undefined.jinja", "messages": SHORT, "kwargs": {"step": "attribute"}},
    {"template": "undefined.jinja", "messages": SHORT, "kwargs": {"step": "call"}},
    {"template": "undefined.jinja", "messages": SHORT, "kwargs": {"step": "concat"}},
    {"template": "undefined.jinja", "messages": SHORT, "kwargs": {"step": "append"}},
    {"template": "undefined.jinja", "messages": SHORT, "kwargs": {"step": "dunder"}},
]
