"""Chat examples for the tests."""

from gswa.records import Example, Message


def chat(identifier: str, answer: str, *, asked: str = "Go on.", kind: str = "continue") -> Example:
    messages = (Message(role="user", content=asked), Message(role="assistant", content=answer))
    return Example(id=identifier, document=f"{identifier}.txt", kind=kind, messages=messages)
