"""The topics of a peer: one topic a line, as people type them."""

from django.core.exceptions import ValidationError

from dwsps_channels.protocol import topics
from dwsps_channels.protocol.errors import InvalidTopic


def split_topics(text: str) -> list[str]:
    """Return the topics in ``text``, without empty lines and repetitions."""
    lines = (line.strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def validate_topics(text: str) -> None:
    """Raise ``ValidationError``, naming the first line that is not a topic."""
    for topic in split_topics(text):
        try:
            topics.check(topic)
        except InvalidTopic as error:
            raise ValidationError(
                "'%(topic)s' %(problem)s",
                code="topic",
                params={"topic": topic, "problem": error.problem},
            ) from error
