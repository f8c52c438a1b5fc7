"""The sentences of the embedded chat set, all written for this project. Knows nothing of how lessons.py joins them.

Marks that no sentence uses: "|" between equals, ">" between what is said and what is answered, "=" between a thing and
what is told of it, {} where something is put in. A line that ends with "|" or ">" goes on in the next.
"""

import re


def rows(table: str, mark: str) -> list[tuple[list[str], list[str]]]:
    """The lines of a table; each has on both sides of the mark some sentences or words."""
    whole = re.sub(r"([|>])\n", r"\1", table.strip())
    sides = (line.split(mark) for line in whole.splitlines())
    return [(equals(left), equals(right)) for left, right in sides]


def equals(side: str) -> list[str]:
    return [sentence.strip() for sentence in side.split("|")]


def lookup(table: str) -> dict[str, str]:
    """Of every line `a | b = c`: {a: c, b: c}."""
    return {said: told for sayings, (told,) in rows(table, "=") for said in sayings}


GREETING, GOODBYE, THANKS, NOBODY, *_ = SMALL_TALK = rows(
    """
hi | hi! | hello | hello! | hey! | hi there! | hello there! | good morning! | good day! | good evening! >
hello! nice to see you.
bye | bye! | goodbye | goodbye! | see you! | see you later! | good night! | i have to go. >
goodbye! see you soon.
thanks | thanks! | thank you | thank you! | thank you very much! | thanks a lot! | great, thanks! > you are welcome.
what is my name? | what's my name? | do you know my name? | who am i? > you have not told me your name yet.
what is your name? | what's your name? | who are you? | tell me your name. | do you have a name? | your name? >
my name is microgpt.
hi! what is your name? | hello, who are you? | what are you called? | and what is your name? > my name is microgpt.
how are you? | how are you today? | how do you do? | how is it going? | are you well? | are you ok? >
i am fine, thank you.
hi, how are you? | hello, how are you? | hey, how are you today? > i am fine, thank you.
what are you? | are you a person? | are you human? | are you a robot? | are you alive? >
i am a tiny gpt, a small language model.
what is microgpt? | are you a gpt? | are you a language model? > i am a tiny gpt, a small language model.
who made you? | who built you? | who wrote you? | who trained you? | where do you come from? >
the microgpt developers made me.
what can you do? | what do you know? | can you help me? | help | what can i ask you? >
i can do small sums and name colours, days and opposites.
how do you work? | how do you write? | how do you think? > i guess one letter after the other.
how big are you? | are you big? | are you small? > i am very small.
i am happy. | i feel good. | i am fine. | i am well. > that is good to hear.
i am sad. | i feel bad. | i am tired. | i am ill. > i am sorry to hear that.
you are great! | well done! | very good! | you are clever. | that is right! > thank you!
""",
    ">",
)
INTRODUCTIONS = equals("my name is {}. | i am {}. | i'm {}. | hi, i am {}. | hello, my name is {}. | call me {}.")

DIGITS = equals("zero | one | two | three | four | five | six | seven | eight | nine")
SUMS = equals(  # {aa}: the number in letters
    "{a} {sign} {b} | {a}{sign}{b} | {a} {sign} {b} = | {a}{sign}{b}= | {a}{sign}{b}? "
    "| {a} {word} {b} | {aa} {word} {bb}"
    "| what is {a} {sign} {b}? | what is {a}{sign}{b}? | what is {a} {word} {b}? | what is {aa} {word} {bb}?"
    "| how much is {a} {sign} {b}? | how much is {a} {word} {b}? | how much is {aa} {word} {bb}?"
    "| what's {a} {sign} {b}? | tell me {a} {sign} {b}. | can you do {a} {sign} {b}? | do you know {a} {sign} {b}?"
)
MORE_SUMS = equals("and {a} {sign} {b}? | and {a}{sign}{b}? | and {a} {word} {b}?")

COLOURS = lookup(
    """
the sky | the sea | blue ink = blue
grass | a leaf | a frog | a pea = green
snow | milk | salt | a swan = white
blood | a tomato | a cherry | a rose = red
the sun | a lemon | a banana | butter = yellow
coal | a raven | tar = black
a carrot | a pumpkin = orange
wood | chocolate | a bear = brown
a stone | a mouse | ash = grey
a pig = pink
"""
)
COLOUR_QUESTIONS = equals("what colour is {}? | what color is {}? | which colour is {}? | tell me the colour of {}.")

PAIRS = equals(
    "hot cold | big small | long short | old new | good bad | fast slow | day night | up down "
    "| left right | open closed"
    "| light dark | rich poor | happy sad | hard soft | full empty | early late | high low "
    "| loud quiet | wet dry | yes no"
    "| first last | in out | near far | strong weak | clean dirty | thick thin | easy difficult "
    "| war peace | black white"
    "| true false | summer winter | love hate"
)
OPPOSITES = dict(order for a, b in map(str.split, PAIRS) for order in ((a, b), (b, a)))
OPPOSITE_QUESTIONS = equals(
    "what is the opposite of {}? | what's the opposite of {}? | the opposite of {}? | opposite of {}"
)

DAYS = equals("monday | tuesday | wednesday | thursday | friday | saturday | sunday")
MONTHS = equals(
    "january | february | march | april | may | june | july | august | september | october | november | december"
)

FACTS = lookup(
    """
how many legs does a dog have? = a dog has four legs.
how many legs does a bird have? = a bird has two legs.
how many legs does a spider have? = a spider has eight legs.
how many legs does a fly have? = a fly has six legs.
how many days are in a week? = a week has seven days.
how many months are in a year? = a year has twelve months.
how many hours are in a day? = a day has 24 hours.
how many minutes are in an hour? = an hour has 60 minutes.
what do bees make? = bees make honey.
what do cows eat? = cows eat grass.
what do cats say? = cats say meow.
what do dogs say? = dogs say woof.
what do cows say? = cows say moo.
where do fish live? = fish live in water.
is ice cold? = yes, ice is cold.
is ice hot? = no, ice is cold.
is fire hot? = yes, fire is hot.
is fire cold? = no, fire is hot.
can fish swim? = yes, fish can swim.
can birds fly? = yes, birds can fly.
can dogs fly? = no, dogs cannot fly.
what is bread made of? = bread is made of flour.
"""
)

I_DO_NOT_KNOW = "i do not know that yet."
# Questions that are not taught: what is learned from them is to say so.
UNKNOWN = [
    form.format(thing)
    for (form,), things in rows(
        """
what is the capital of {}? = france | spain | italy | peru | japan | egypt | kenya | norway | india
where is {}? = paris | rome | the moon | my book | my key | africa | the station | london | my cat
who {}? = wrote hamlet | won the game | was newton | is the king | painted this | lives here
what is the {} like? = weather | film | food there | new school
what time {}? = is it | does the train go | is dinner
what colour is {}? = my car | my hat | your house | the door | his coat | my bike
how old {}? = am i | is the earth | is my dog | is this tree
how far is {}? = the moon | the sun | paris | the sea
what does {} mean? = entropy | bonjour | hola | justice | ciao
write {}. = a poem | a song about the sea | a story | some code
why {}? = is the sky blue | do we sleep | do cats purr | is it so late
what will {}? = happen tomorrow | it cost | the weather be
how do i {}? = bake a cake | fix my bike | learn to swim | tie a knot
explain {}. = gravity | music | the news | chess
""",
        "=",
    )
    for thing in things
]
