"""What an answer may say, and what stands below it: a profile, ready to be used. It does not know where answers come from."""

from __future__ import annotations

from gateway.policy.fences import closing, outside
from gateway.policy.filter import Filter, Verdict
from gateway.policy.lexicon import Lexicon, Word
from gateway.profiles.profile import Profile
from gateway.records import Language


class Policy:
    """The output policy of one profile; immutable, so every task may use it."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._words = tuple(
            Word(entry.word, (entry.word, *entry.forms), entry.level, entry.asked or entry.level, entry.allow)
            for entry in profile.blocked.words
        )
        self._lexicon = Lexicon(self._words)

    @classmethod
    def load(cls, profile: str) -> Policy:
        """By a profile's name, or the path of a YAML file."""
        return cls(Profile.load(profile))

    def filter(self, language: Language, question: str = "") -> Filter:
        """A filter for one answer. After a question that mentions a word honestly, the word's `asked` level holds."""
        lexicon = self._lexicon
        if question and (honest := lexicon.honest(question)):
            lexicon = Lexicon(self._words, honest)
        return Filter(lexicon, self._profile.blocked.replacement.of(language))

    def judge(self, text: str, language: Language) -> Verdict:
        """The verdict on a whole text."""
        filtered = self.filter(language)
        filtered.push(text)
        filtered.end()
        return filtered.verdict

    def disclaimer(self, language: Language) -> str:
        """The sentence below every answer; "" when the profile has none."""
        return self._profile.disclaimer.of(language)

    def finish(self, text: str, language: Language, below: str = "") -> str:
        """A whole answer: the text, what belongs below it, and the disclaimer once. Begins with the text.

        A code block that the model left open is closed first. A call of a tool, and an empty answer, stay as they are.
        """
        if not (text + below).strip() or text.rstrip().endswith("</tool_call>"):
            return text + below
        whole = text + closing(text) + below
        disclaimer = self.disclaimer(language)
        if not disclaimer or disclaimer in outside(whole):
            return whole
        return f"{whole}{closing(whole)}\n\n{disclaimer}"
