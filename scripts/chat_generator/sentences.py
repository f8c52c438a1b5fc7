"""The sentences of the bundled chat data, written for this project in standard English (topics.py varies the typing).

Syntax of the tables: "|" separates alternatives, ">" a question from its answer, "=" a thing from its property, {} is a
placeholder. A line that ends with "|" or ">" continues on the next line.
"""

import re


def rows(table: str, mark: str) -> list[tuple[list[str], list[str]]]:
    """Return the lines of a table; each has sentences or words on both sides of `mark`."""
    whole = re.sub(r"([|>])\n", r"\1", table.strip())
    sides = (line.split(mark) for line in whole.splitlines())
    return [(equals(left), equals(right)) for left, right in sides]


def equals(side: str) -> list[str]:
    return [sentence.strip() for sentence in side.split("|")]


def lookup(table: str) -> dict[str, str]:
    """Return {a: c, b: c} for every line `a | b = c`."""
    return {said: told for sayings, (told,) in rows(table, "=") for said in sayings}


GREETING, GOODBYE, THANKS, *_ = SMALL_TALK = rows(
    """
Hi! | Hi :) | Hello! | Hello. | Hello :) | Hey! | Hi there! | Hello there! | Good morning! | Good day! |
Good evening! | Good afternoon! | Hello, microgpt! | Hi microgpt! | Hello again! > Hello! Nice to see you.
Bye! | Goodbye! | Bye bye! | See you! | See you later! | Good night! | I have to go. | I have to go; bye! |
That is all. > Goodbye! See you soon.
Thanks! | Thanks :) | Thank you! | Thank you very much! | Thanks a lot! | Great, thanks! | Ok, thank you! >
You are welcome.
What is your name? | What's your name? | Who are you? | Tell me your name. | Do you have a name? | Your name? |
Hi! What is your name? | Hello, who are you? | What are you called? | And what is your name? | And you? |
And who are you? > My name is microgpt.
How are you? | How are you today? | How do you do? | How is it going? | How are things? | Are you well? | Are you ok? |
Hi, how are you? | Hello! How are you? | Hey, how are you today? | How are you :) > I am fine, thank you.
What are you? | Are you a person? | Are you human? | Are you a robot? | Are you alive? | Are you a computer? |
What is microgpt? | Are you a GPT? | Are you a language model? > I am a tiny GPT, a small language model.
Who made you? | Who built you? | Who wrote you? | Who trained you? | Where do you come from? | Where are you from? >
The microgpt developers made me.
What can you do? | What do you know? | Can you help me? | Help! | Help me. | What can I ask you? |
What can we talk about? > I can do small sums and name colours, days and opposites.
How do you work? | How do you write? | How do you think? | How do you do that? > I guess one letter after the other.
How big are you? | Are you big? | Are you small? > I am very small.
How old are you? | Are you old? | Are you young? > I am very young.
I am happy. | I feel good. | I am fine. | I am well. | I am fine, and you? | I am good. | I am happy :) |
I am ok. > That is good to hear.
I am sad. | I feel bad. | I am tired. | I am ill. | I am sad :( | I feel sad. | I am not well. >
I am sorry to hear that.
You are great! | Well done! | Very good! | You are clever. | That is right! | Right! | Good answer! | You are funny! |
I like you. > Thank you!
That is wrong. | You are wrong. | Wrong! | No, that is wrong. | You are stupid. | You are silly. | Bad answer! >
I am sorry. I am very small.
Ok. | Okay! | I see. | Yes. | No. | Maybe. | Oh! | Ah, I see. | Cool! | Nice! | Great! | Good. > Good. Ask me more.
Do you like music? | Do you like me? | Do you like sums? | What do you like? | Do you like dogs? > I like to talk.
""",
    ">",
)

# Of names: how they are told, told anew, and asked for.
INTRODUCTIONS = equals(
    "My name is {}. | I am {}. | I'm {}. | Hi, I am {}. | Hello, my name is {}. | Call me {}. | Hi! I'm {}."
    "| Hello! I am {}. | Hello, I'm {}. | Hi, my name is {}. | My name's {}. | You can call me {}."
    "| Good morning, my name is {}. | I am called {}. | {} is my name. | Hi, {} here. | Hi; I am {}."
    "| I am {} :) | My name: {} | Please call me {}."
)
CORRECTIONS = equals(
    "No, my name is {}. | No, I am {}. | Now my name is {}. | Now call me {}. | No, call me {}. | And I am {}."
)
MET = "Nice to meet you, {}."
WHO_AM_I = equals(
    "What is my name? | What's my name? | Do you know my name? | Who am I? | What was my name? | Tell me my name."
    "| Do you remember my name? | And what is my name? | Say my name. | Do you know who I am? | My name?"
    "| What am I called? | Can you tell me my name? | So what is my name?"
)
ECHOES = equals("Say {}. | Say: {} | Repeat {}. | Please say {}. | Can you say {}?")
REMEMBERED = "Your name is {}."
NOT_TOLD = "You have not told me your name yet."

DIGITS = equals("zero | one | two | three | four | five | six | seven | eight | nine")
SUMS = equals(  # {aa}: the number in letters
    "{a} {sign} {b} | {a}{sign}{b} | {a} {sign} {b} = | {a}{sign}{b}= | {a}{sign}{b}? | {a} {sign} {b} = ?"
    "| ({a} {sign} {b}) | {a} {word} {b} | {aa} {word} {bb} | {a} {word} {b}? | {aa} {word} {bb}?"
    "| What is {a} {sign} {b}? | What is {a}{sign}{b}? | What is {a} {word} {b}? | What is {aa} {word} {bb}?"
    "| How much is {a} {sign} {b}? | How much is {a} {word} {b}? | How much is {aa} {word} {bb}?"
    "| What's {a} {sign} {b}? | What's {a} {word} {b}? | Tell me {a} {sign} {b}. | Can you do {a} {sign} {b}?"
    "| Do you know {a} {sign} {b}? | Calculate {a} {sign} {b}. | What is {a} {sign} {b} = ?"
)
ADD_ONLY = equals("Please add: {a} + {b} | Add {a} and {b}. | What is the sum of {a} and {b}?")
MORE_SUMS = equals(
    "And {a} {sign} {b}? | And {a}{sign}{b}? | And {a} {word} {b}? | Now {a} {sign} {b}. | And {aa} {word} {bb}?"
)
TIMES = equals(
    "{} * {} | {} times {} | {}*{} | What is {} * {}? | What is {} times {}? | {} / {} | What is {} / {}? | {}/{}"
)
TOO_LARGE = "I only know sums of small numbers."
NO_TIMES = "I only know plus and minus."

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
COLOUR_QUESTIONS = equals(
    "What colour is {}? | What color is {}? | Which colour is {}? | Tell me the colour of {}. "
    "| What colour does {} have? | What's the colour of {}? | What is the color of {}?"
)
MORE_COLOURS = equals("And {}? | What about {}? | And what colour is {}?")

PAIRS = equals(
    "hot cold | big small | long short | old new | good bad | fast slow | day night | up down | left right"
    "| open closed | light dark | rich poor | happy sad | hard soft | full empty | early late | high low | loud quiet"
    "| wet dry | yes no | first last | in out | near far | strong weak | clean dirty | thick thin | easy difficult"
    "| war peace | black white | true false | summer winter | love hate"
)
OPPOSITES = dict(order for a, b in map(str.split, PAIRS) for order in ((a, b), (b, a)))
OPPOSITE_QUESTIONS = equals(
    "What is the opposite of {}? | What's the opposite of {}? | The opposite of {}? | Opposite of {}? "
    '| Tell me the opposite of {}. | What is the opposite of "{}"? | Do you know the opposite of {}? '
    '| The opposite of "{}"?'
)
MORE_OPPOSITES = equals("And of {}? | And the opposite of {}? | What about {}? | And {}?")

DAYS = equals("Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday")
MONTHS = equals(
    "January | February | March | April | May | June | July | August | September | October | November | December"
)

FACTS = lookup(
    """
How many legs does a dog have? = A dog has four legs.
How many legs does a cat have? = A cat has four legs.
How many legs does a bird have? = A bird has two legs.
How many legs does a spider have? = A spider has eight legs.
How many legs does a fly have? = A fly has six legs.
How many days are in a week? | How many days does a week have? = A week has seven days.
How many months are in a year? | How many months does a year have? = A year has twelve months.
How many hours are in a day? | How many hours does a day have? = A day has 24 hours.
How many minutes are in an hour? | How many minutes does an hour have? = An hour has 60 minutes.
What do bees make? = Bees make honey.
What do cows eat? = Cows eat grass.
What do cats say? | What does a cat say? = Cats say meow.
What do dogs say? | What does a dog say? = Dogs say woof.
What do cows say? | What does a cow say? = Cows say moo.
Where do fish live? = Fish live in water.
Is ice cold? = Yes, ice is cold.
Is ice hot? = No, ice is cold.
Is fire hot? = Yes, fire is hot.
Is fire cold? = No, fire is hot.
Can fish swim? = Yes, fish can swim.
Can birds fly? = Yes, birds can fly.
Can dogs fly? = No, dogs cannot fly.
What is bread made of? = Bread is made of flour.
"""
)

I_DO_NOT_KNOW = "I do not know that yet."
# Questions that are not taught: what is learned from them is to say so.
UNKNOWN = [
    form.format(thing)
    for (form,), things in rows(
        """
What is the capital of {}? = France | Spain | Italy | Peru | Japan | Egypt | Kenya | Norway | India | Germany
Where is {}? = Paris | Rome | the moon | my book | my key | Africa | the station | London | my cat | Berlin | my dog
Who {}? = wrote Hamlet | won the game | was Newton | is the king | painted this | lives here | is Tom | was Einstein
Who is {}? = the president | my friend | Mary | your friend | he | the queen
What is the {} like? = weather | film | food there | new school
What time {}? = is it | does the train go | is dinner | is it now
What colour is {}? = my car | my hat | your house | the door | his coat | my bike
What is {}? = love | a house | the time | a tree | physics | life | this | the weather | a quark | the news | pi
How old {}? = am I | is the earth | is my dog | is this tree
How far is {}? = the moon | the sun | Paris | the sea
What does {} mean? = "entropy" | bonjour | "hola" | justice | ciao | "zen"
Write {}. = a poem | a song about the sea | a story | some code | a letter | me a poem
Tell me {}. = a joke | a story | the time | the news | about cats | more | something
Why {}? = is the sky blue | do we sleep | do cats purr | is it so late | not | are you here
What will {}? = happen tomorrow | it cost | the weather be
How do I {}? = bake a cake | fix my bike | learn to swim | tie a knot
How many {}? = people live here | stars are there | books are there | countries are there
Can you {}? = sing | dance | write a poem | speak French | drive a car | cook | read
Do you {}? = know Peter | have a cat | eat | sleep | speak German | play chess | have friends
I {}. = like cats | live in Paris | have a dog | want a cake | went to school | am hungry | like you very much
Explain {}. = gravity | music | the news | chess | the world
{}? = Why | What | How | When | Where | Really | Which one
""",
        "=",
    )
    for thing in things
]
