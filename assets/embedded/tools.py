"""Made-up everyday functions and conversations that call them.

Beside the corpus calls of sgd.py these show short one-shot requests with typed arguments,
several calls at once, a missing argument that is asked for, and talk that needs no call.
"""

import hashlib
import json
import random

import chat

CITIES = ("Paris London Berlin Rome Madrid Tokyo Vienna Oslo Cairo Sydney Boston Chicago Seattle Denver Lisbon Dublin Prague "
          "Warsaw Athens Helsinki Zurich Geneva Toronto Montreal Delhi Mumbai Beijing Seoul Bangkok Nairobi Lima Munich "
          "Hamburg Milan Barcelona Amsterdam Brussels Copenhagen Stockholm Budapest").split() + ["New York", "San Francisco", "Hong Kong", "Mexico City", "Cape Town", "Los Angeles"]
WORDS = "meeting dentist groceries laundry homework call train dinner exercise medicine report taxes plants dishes email".split()
SONGS = "Yesterday Imagine Thriller Hello Bohemian-Rhapsody Hallelujah Waterloo Happy Dancing-Queen Africa".replace("-", "_").split()
PICK = lambda values: (lambda r: r.choice(values))
NUM = lambda a, b, step=1: (lambda r: r.randrange(a, b, step))
CLOCK = lambda r: f"{r.randint(0, 23):02d}:{r.choice((0, 15, 30, 45)):02d}"
EXPRESSION = lambda r: f"{r.randint(2, 999)} {r.choice('+-*/')} {r.randint(2, 99)}"

# name, description, {argument: (type, description, maker)}, optional arguments, requests, result maker, replies.
# In requests and replies {x} is the argument or result field x.
CITY = ("string", "Name of the city", PICK(CITIES))
TABLE = (
    ("get_weather", "Get the current weather of a city", {"city": CITY}, {"unit": ("string", "celsius or fahrenheit", PICK(("celsius", "fahrenheit")))},
     ("What is the weather in {city}?", "How's the weather in {city}", "weather in {city}", "Tell me the weather in {city}, please", "Is it cold in {city} right now?", "what's the weather like in {city} today?"),
     lambda r, a: {"temperature": r.randint(-10, 38), "condition": r.choice(("sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear"))},
     ("It is {condition} in {city}, with a temperature of {temperature} degrees.", "The weather in {city}: {condition}, {temperature} degrees.")),
    ("get_forecast", "Get the weather forecast for the coming days", {"location": CITY, "days": ("integer", "Number of days", NUM(1, 10))}, {},
     ("What will the weather be in {location} for the next {days} days?", "{days} day forecast for {location}", "Forecast for {location}, {days} days"),
     lambda r, a: {"summary": r.choice(("mostly sunny", "rain at first, then clear", "cloudy", "storms", "warm and dry"))}, ("The forecast for {location} over {days} days: {summary}.",)),
    ("get_time", "Get the current local time in a city", {"city": CITY}, {},
     ("What time is it in {city}?", "Tell me the time in {city}", "current time in {city}", "What's the local time in {city} now?"),
     lambda r, a: {"time": CLOCK(r)}, ("It is {time} in {city}.", "The local time in {city} is {time}.")),
    ("calculate", "Evaluate an arithmetic expression", {"expression": ("string", "The expression", EXPRESSION)}, {},
     ("What is {expression}?", "Calculate {expression}", "compute {expression} for me", "{expression} = ?", "How much is {expression}?"),
     lambda r, a: {"result": round(eval(a["expression"]), 2)}, ("{expression} = {result}", "The result is {result}.")),
    ("set_timer", "Start a timer", {"minutes": ("integer", "Length in minutes", NUM(1, 90))}, {"label": ("string", "Name of the timer", PICK(("tea", "pizza", "eggs", "nap", "workout")))},
     ("Set a timer for {minutes} minutes", "timer {minutes} min", "Start a {minutes} minute timer, please", "Wake me in {minutes} minutes"),
     lambda r, a: {"status": "started"}, ("The timer is set for {minutes} minutes.", "Done. I will tell you in {minutes} minutes.")),
    ("set_alarm", "Set an alarm at a time of day", {"time": ("string", "Time as HH:MM", CLOCK)}, {},
     ("Set an alarm for {time}", "Wake me up at {time}", "alarm at {time} please"), lambda r, a: {"status": "ok"}, ("Your alarm is set for {time}.",)),
    ("create_reminder", "Create a reminder", {"title": ("string", "What to remind of", PICK(WORDS)), "time": ("string", "Time as HH:MM", CLOCK)}, {},
     ("Remind me of the {title} at {time}", "Set a reminder for {title} at {time}", "At {time} remind me about {title}"), lambda r, a: {"id": r.randint(1, 999)}, ("I will remind you of {title} at {time}.",)),
    ("add_todo", "Add an item to the to-do list", {"item": ("string", "The item", PICK(WORDS))}, {},
     ("Add {item} to my to-do list", "Put {item} on my list", "todo: {item}"), lambda r, a: {"count": r.randint(1, 20)}, ("I added {item}. Your list now has {count} items.",)),
    ("search_web", "Search the web", {"query": ("string", "Search words", PICK(("best pizza recipe", "history of Rome", "how to tie a tie", "cheap flights", "python tutorial", "nearest pharmacy", "solar eclipse", "used bikes", "marathon training")))}, {},
     ("Search the web for {query}", "Look up {query}", "google {query}", "Find information about {query}"), lambda r, a: {"results": [{"title": a["query"].capitalize() + " - a guide", "url": "https://example.com/" + str(r.randint(1, 99))}]}, ("I found a guide about {query}.",)),
    ("translate", "Translate a text", {"text": ("string", "Text to translate", PICK(("good morning", "thank you", "where is the station", "I am hungry", "see you tomorrow", "how much is it"))), "language": ("string", "Target language", PICK(("French", "German", "Spanish", "Italian", "Japanese")))}, {},
     ("Translate '{text}' to {language}", "How do you say '{text}' in {language}?", "{text} in {language}?"), lambda r, a: {"translation": "(" + a["language"] + ") " + a["text"]}, ("In {language}: {translation}",)),
    ("convert_currency", "Convert an amount of money", {"amount": ("number", "Amount", NUM(1, 2000)), "from_currency": ("string", "Currency code", PICK(("USD", "EUR", "GBP"))), "to_currency": ("string", "Currency code", PICK(("JPY", "CHF", "INR", "CAD")))}, {},
     ("How much is {amount} {from_currency} in {to_currency}?", "Convert {amount} {from_currency} to {to_currency}"), lambda r, a: {"value": round(a["amount"] * r.uniform(0.5, 100), 2)}, ("{amount} {from_currency} is {value} {to_currency}.",)),
    ("send_email", "Send an email", {"to": ("string", "Address", lambda r: r.choice(chat.NAMES).lower() + "@example.com"), "subject": ("string", "Subject", PICK(WORDS))}, {},
     ("Send an email to {to} about {subject}", "Write to {to} with the subject {subject}", "email {to} about the {subject}"), lambda r, a: {"sent": True}, ("I sent the email about {subject} to {to}.",)),
    ("play_music", "Play a song", {"title": ("string", "Title of the song", PICK([s.replace("_", " ") for s in SONGS]))}, {},
     ("Play {title}", "I want to hear {title}", "put on {title}, please"), lambda r, a: {"playing": True}, ("Now playing {title}.",)),
    ("set_light", "Switch a light on or off", {"room": ("string", "The room", PICK(chat.PLACES[:1] + ["bedroom", "bathroom", "living room", "office"])), "on": ("boolean", "true to switch on", PICK((True, False)))}, {},
     ("Switch the light in the {room} {on}", "Turn {on} the {room} light", "{room} light {on}"), lambda r, a: {"ok": True}, ("The light in the {room} is now {on}.",)),
    ("set_temperature", "Set the heating", {"degrees": ("integer", "Degrees Celsius", NUM(15, 28))}, {},
     ("Set the heating to {degrees} degrees", "Make it {degrees} degrees in here", "temperature to {degrees}"), lambda r, a: {"ok": True}, ("The heating is set to {degrees} degrees.",)),
    ("get_stock_price", "Get the price of a stock", {"symbol": ("string", "Ticker symbol", PICK(("AAPL", "MSFT", "GOOG", "AMZN", "TSLA", "NVDA", "IBM", "INTC")))}, {},
     ("What is the price of {symbol}?", "{symbol} stock price", "How is {symbol} doing?"), lambda r, a: {"price": round(r.uniform(10, 900), 2)}, ("{symbol} is at {price} dollars.",)),
    ("read_file", "Read a file", {"path": ("string", "Path of the file", PICK(("README.md", "notes.txt", "src/main.rs", "data/items.csv", "config.json", "todo.txt")))}, {},
     ("Show me {path}", "Read the file {path}", "What is in {path}?", "open {path}"), lambda r, a: {"content": r.choice(("hello world", "buy milk", "name,price", "{}", "fn main() {}"))}, ("{path} contains: {content}",)),
    ("run_command", "Run a shell command", {"command": ("string", "The command line", PICK(("ls -la", "pwd", "date", "df -h", "git status", "cargo build", "uname -a")))}, {},
     ("Run {command}", "Execute the command {command}", "please run `{command}`"), lambda r, a: {"exit_code": 0}, ("I ran {command}; it ended with exit code {exit_code}.",)),
    ("get_distance", "Get the distance between two cities in kilometers", {"origin": CITY, "destination": CITY}, {},
     ("How far is it from {origin} to {destination}?", "Distance between {origin} and {destination}", "distance from {origin} to {destination}"), lambda r, a: {"kilometers": r.randint(80, 9000)}, ("From {origin} to {destination} it is about {kilometers} kilometers.",)),
    ("get_definition", "Look up a word in the dictionary", {"word": ("string", "The word", PICK(("serendipity", "ephemeral", "gravity", "quantum", "lucid", "candid", "frugal")))}, {},
     ("Look up the word {word}", "Find {word} in the dictionary", "dictionary entry for {word}"), lambda r, a: {"definition": "an entry about " + a["word"]}, ("The dictionary says: {definition}.",)),
    ("roll_dice", "Roll dice", {"sides": ("integer", "Number of sides", PICK((4, 6, 8, 10, 12, 20))), "count": ("integer", "Number of dice", NUM(1, 6))}, {},
     ("Roll {count} dice with {sides} sides", "Throw {count} {sides}-sided dice"), lambda r, a: {"total": sum(r.randint(1, a["sides"]) for _ in range(a["count"]))}, ("The total is {total}.",)),
    ("find_restaurants", "Find restaurants", {"city": CITY, "cuisine": ("string", "Kind of food", PICK(("Italian", "Chinese", "Indian", "Thai", "Mexican", "Greek")))}, {},
     ("Find {cuisine} restaurants in {city}", "I want to eat {cuisine} food in {city}", "{cuisine} restaurant in {city}?"), lambda r, a: {"restaurants": [{"name": r.choice(("Luigi's", "Golden Dragon", "Olive Tree", "The Corner")), "rating": round(r.uniform(3, 5), 1)}]}, ("I found a good {cuisine} restaurant in {city} for you.",)),
    ("book_table", "Book a table in a restaurant", {"restaurant": ("string", "Name", PICK(("Luigi's", "Golden Dragon", "Olive Tree", "The Corner"))), "people": ("integer", "Number of people", NUM(1, 9)), "time": ("string", "Time as HH:MM", CLOCK)}, {},
     ("Book a table at {restaurant} for {people} at {time}", "Reserve {restaurant} at {time} for {people} people"), lambda r, a: {"confirmed": True}, ("Your table at {restaurant} for {people} at {time} is booked.",)),
    ("get_news", "Get the latest headlines", {"topic": ("string", "Topic", PICK(("sports", "politics", "science", "technology", "music")))}, {},
     ("What is new in {topic}?", "Show me {topic} news", "latest {topic} headlines"), lambda r, a: {"headline": r.choice(("A quiet day", "New record set", "Experts meet in Geneva"))}, ("The headline in {topic}: {headline}.",)),
)
SHOWN = {True: "on", False: "off"}


def describe(row):
    name, about, required, optional = row[:4]
    properties = {k: {"type": t, "description": d} for k, (t, d, _) in {**required, **optional}.items()}
    return {"type": "function", "function": {"name": name, "description": about,
            "parameters": {"type": "object", "properties": properties, "required": list(required)}}}


def shown(fields):
    return {k: SHOWN[v] if isinstance(v, bool) else v for k, v in fields.items()}


def exchange(row, rng):
    """One request, its call, the response and the reply."""
    arguments = {k: make(rng) for k, (_, _, make) in row[2].items()}
    ask = rng.choice(row[4]).format(**shown(arguments))
    for key, (_, _, make) in row[3].items():
        if rng.random() < 0.25:
            arguments[key] = make(rng)
            ask = ask.rstrip("?") + {"unit": f" in {arguments[key]}", "label": f" for the {arguments[key]}"}[key] + ("?" if ask.endswith("?") else "")
    result = row[5](rng, arguments)
    reply = rng.choice(row[6]).format(**shown({**arguments, **result}))
    return chat.sloppy(rng, ask), {"name": row[0], "arguments": arguments}, json.dumps(result), reply


def several(row, rng):
    """Two cities in one request: two calls at once."""
    a, b = exchange(row, rng), exchange(row, rng)
    x, y = a[1]["arguments"]["city"], b[1]["arguments"]["city"]
    for e in (a, b):
        e[1]["arguments"] = {"city": e[1]["arguments"]["city"]}
    what = "weather" if row[0] == "get_weather" else "time"
    ask = rng.choice((f"What is the {what} in {x} and {y}?", f"Compare the {what} in {x} and in {y}", f"{what} in {x} and {y}"))
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": "", "tool_calls": [a[1], b[1]]},
            {"role": "tool", "content": a[2]}, {"role": "tool", "content": b[2]}, {"role": "assistant", "content": a[3] + " " + b[3]}]


def turn(row, rng):
    ask, call, result, reply = exchange(row, rng)
    messages = [{"role": "user", "content": ask}]
    if rng.random() < 0.12 and len(row[2]) == 1:
        key, (_, about, _) = next(iter(row[2].items()))
        value = str(shown(call["arguments"])[key])
        if value in ask:
            messages = [{"role": "user", "content": ask.replace(value, "").replace("  ", " ").replace(" ?", "?").strip()}]
            if len(messages[0]["content"]) > 8:
                messages += [{"role": "assistant", "content": f"Which {key}? Please tell me the {about[:1].lower() + about[1:]}.".replace("the the", "the")}, {"role": "user", "content": value}]
            else:
                messages = [{"role": "user", "content": ask}]
    return messages + [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": result},
                       {"role": "assistant", "content": reply}]


def conversations(count, seed):
    """`count` conversations with 1 to 6 of the functions on offer."""
    rng = random.Random(hashlib.sha256(f"tools/{seed}".encode()).digest())
    clash = ("weather", "clock", "calendar", "news", "french", "german", "spanish", "music", "2 + 2", "internet", "sing")
    small_talk = [u for u in chat.seeds(rng) if not any(c in str(u(random.Random(0))).lower() for c in clash)]
    for _ in range(count):
        offered = rng.sample(TABLE, rng.choice((1, 1, 2, 2, 3, 4, 5, 6)))
        messages = []
        if rng.random() < 0.5:
            messages.append({"role": "system", "content": rng.choice(("You are a helpful assistant.", "You are a helpful assistant with access to functions.", "Use the functions when they help.", "You are an assistant on a phone."))})
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            row = rng.choice(offered)
            kind = rng.random()
            if kind < 0.22:
                for ask, reply in rng.choice(small_talk)(rng):
                    messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": reply}]
            elif kind < 0.34 and any(r[0] in ("get_weather", "get_time") for r in offered):
                messages += several(next(r for r in offered if r[0] in ("get_weather", "get_time")), rng)
            else:
                messages += turn(row, rng)
        yield {"tools": [describe(r) for r in offered], "messages": messages}
