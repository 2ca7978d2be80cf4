"""The words of the generated catalog; brands are invented.

Subcategories stand in the order in which their products are bought after one another (camera, lens,
bag, ...); the last one leads back to the first. Styles have the same six meanings in every
department (rugged, light, classic, budget, professional, colourful), in words of that department.
"""

from __future__ import annotations

from typing import NamedTuple


class Subcategory(NamedTuple):
    """One product type: its name in the category path, its noun in titles, its four variants."""

    name: str
    noun: str
    specs: tuple[str, str, str, str]


class Department(NamedTuple):
    """One department: six subcategories, six brands, six styles and phrases for descriptions."""

    name: str
    subcategories: tuple[Subcategory, ...]
    brands: tuple[str, ...]
    styles: tuple[str, ...]
    purposes: tuple[str, ...]


STYLE_PHRASES = (
    "Built to take knocks and bad weather",
    "Pared down to the lightest version that still works",
    "A timeless design that has changed little in decades",
    "Good value for a first purchase",
    "Made for people who do this for a living",
    "Comes in cheerful colours",
)

DETAILS = (
    "Easy to clean.",
    "Two year warranty.",
    "Packed without plastic.",
    "Spare parts are available.",
    "Instructions included.",
    "Assembled by hand.",
    "Ships in a gift box.",
    "Made from recycled material.",
)


def _subcategory(name: str, noun: str, *specs: str) -> Subcategory:
    first, second, third, fourth = specs
    return Subcategory(name, noun, (first, second, third, fourth))


DEPARTMENTS = (
    Department(
        "Outdoor & Camping",
        (
            _subcategory("Backpacks", "Backpack", "30L", "45L", "60L", "75L"),
            _subcategory("Tents", "Tent", "1-Person", "2-Person", "3-Person", "Family"),
            _subcategory("Sleeping Bags", "Sleeping Bag", "Summer", "3-Season", "Winter", "Down"),
            _subcategory("Camp Stoves", "Stove", "Gas", "Alcohol", "Wood", "Two-Burner"),
            _subcategory("Headlamps", "Headlamp", "200lm", "350lm", "500lm", "Rechargeable"),
            _subcategory("Trekking Poles", "Trekking Poles", "Cork", "Folding", "Carbon", "Alloy"),
        ),
        ("Trailmark", "Norrhide", "Pinecairn", "Galewood", "Stonefern", "Overvale"),
        ("Granite", "Feather", "Heritage", "Starter", "Alpine", "Wildflower"),
        ("long hikes", "weekend camping", "cold nights outside", "the high mountains"),
    ),
    Department(
        "Photography",
        (
            _subcategory("Cameras", "Camera", "Mirrorless", "Compact", "Full-Frame", "Instant"),
            _subcategory("Lenses", "Lens", "24mm", "35mm", "50mm", "85mm"),
            _subcategory("Camera Bags", "Camera Bag", "Sling", "Shoulder", "Roll-Top", "Padded"),
            _subcategory("Tripods", "Tripod", "Tabletop", "Travel", "Carbon-Leg", "Video"),
            _subcategory("Filters", "Lens Filter", "ND8", "Polarizing", "UV", "Graduated"),
            _subcategory("Photo Printers", "Photo Printer", "4x6", "Pocket", "Pigment", "Wide"),
        ),
        ("Corvane", "Lumique", "Oakshutter", "Halidon", "Vistaro", "Prismet"),
        ("Expedition", "Air", "Retro", "Easy", "Studio", "Pop"),
        ("street photography", "portraits", "landscapes at dawn", "family albums"),
    ),
    Department(
        "Coffee & Kitchen",
        (
            _subcategory("Coffee Grinders", "Coffee Grinder", "Burr", "Manual", "Conical", "Flat"),
            _subcategory("Coffee Brewers", "Brewer", "Pour-Over", "Drip", "Siphon", "Cold-Brew"),
            _subcategory("Kettles", "Kettle", "Gooseneck", "1.7L", "Whistling", "Variable-Heat"),
            _subcategory("Mugs", "Mug", "Stoneware", "Double-Wall", "Enamel", "12oz"),
            _subcategory("Kitchen Scales", "Scale", "Digital", "0.1g", "Timer", "5kg"),
            _subcategory("Storage Jars", "Jar", "Vacuum", "Glass", "Clip-Top", "Ceramic"),
        ),
        ("Brightkettle", "Moka Lane", "Fernbrew", "Castille", "Hearthly", "Bluecrema"),
        ("Ironside", "Whisper", "Farmhouse", "Daily", "Barista", "Confetti"),
        ("slow mornings", "an office kitchen", "espresso lovers", "guests on Sunday"),
    ),
    Department(
        "Cycling",
        (
            _subcategory("Bicycles", "Bike", "Gravel", "City", "Road", "Folding"),
            _subcategory("Helmets", "Helmet", "Vented", "Urban", "Aero", "Visor"),
            _subcategory("Bike Lights", "Bike Light", "Front", "Rear", "USB", "Dynamo"),
            _subcategory("Bike Locks", "Bike Lock", "U-Shape", "Chain", "Cable", "Frame"),
            _subcategory("Panniers", "Pannier", "15L", "20L", "Handlebar", "Saddle"),
            _subcategory("Bike Pumps", "Pump", "Floor", "Mini", "CO2", "Shock"),
        ),
        ("Velmora", "Kestrade", "Rouleur Bay", "Spokewell", "Tandemist", "Ardennia"),
        ("Cobble", "Zephyr", "Classic", "Commuter", "Peloton", "Carnival"),
        ("daily commuting", "long gravel rides", "racing", "touring with luggage"),
    ),
    Department(
        "Home Office",
        (
            _subcategory("Desks", "Desk", "Standing", "Corner", "120cm", "160cm"),
            _subcategory("Office Chairs", "Chair", "Mesh", "High-Back", "Kneeling", "Task"),
            _subcategory("Monitors", "Monitor", "24-inch", "27-inch", "Ultrawide", "Portable"),
            _subcategory("Keyboards", "Keyboard", "Mechanical", "Split", "Wireless", "Tenkeyless"),
            _subcategory("Desk Lamps", "Desk Lamp", "LED", "Clamp", "Dimmable", "Swing-Arm"),
            _subcategory("Notebooks", "Notebook", "A5", "Dotted", "Ruled", "Pocket"),
        ),
        ("Deskora", "Lindholt", "Paperfield", "Quietum", "Ergonia", "Northdraft"),
        ("Fortress", "Slim", "Vintage", "Basic", "Executive", "Candy"),
        ("video calls", "writing all day", "small rooms", "programmers"),
    ),
    Department(
        "Garden",
        (
            _subcategory("Planters", "Planter", "Terracotta", "Hanging", "Raised", "Self-Watering"),
            _subcategory("Seeds", "Seed Set", "Herb", "Tomato", "Meadow", "Salad"),
            _subcategory("Hand Tools", "Trowel", "Steel", "Narrow", "Ash-Handle", "Bulb"),
            _subcategory("Watering Cans", "Watering Can", "5L", "10L", "Long-Spout", "Indoor"),
            _subcategory("Pruners", "Pruner", "Bypass", "Anvil", "Ratchet", "Topiary"),
            _subcategory("Garden Lights", "Garden Light", "Solar", "String", "Path", "Lantern"),
        ),
        ("Greenhollow", "Mossbury", "Petalworks", "Sunfurrow", "Willowgate", "Thornbee"),
        ("Evergreen", "Breeze", "Cottage", "Seedling", "Estate", "Butterfly"),
        ("balconies", "vegetable beds", "shady corners", "evenings on the terrace"),
    ),
    Department(
        "Running & Fitness",
        (
            _subcategory("Running Shoes", "Running Shoe", "Trail", "Tempo", "Cushioned", "Track"),
            _subcategory("Running Socks", "Running Socks", "Merino", "Ankle", "Crew", "Thermal"),
            _subcategory("Sport Watches", "Sport Watch", "GPS", "Heart-Rate", "Solar", "Triathlon"),
            _subcategory("Water Bottles", "Water Bottle", "500ml", "750ml", "Soft", "Insulated"),
            _subcategory("Foam Rollers", "Foam Roller", "Firm", "Vibrating", "Short", "Long"),
            _subcategory("Yoga Mats", "Yoga Mat", "4mm", "6mm", "Cork", "Foldable"),
        ),
        ("Stridewell", "Pulsara", "Fleetfoot Co", "Cadenza Sport", "Ironbirch", "Runova"),
        ("Terrain", "Glide", "Original", "Jogger", "Marathon", "Neon"),
        ("morning runs", "recovery days", "interval training", "the first half marathon"),
    ),
    Department(
        "Music Making",
        (
            _subcategory("Guitars", "Guitar", "Acoustic", "Electric", "Parlor", "12-String"),
            _subcategory("Guitar Strings", "String Set", "Nylon", "Bronze", "Nickel", "Flatwound"),
            _subcategory("Amplifiers", "Amplifier", "10W", "20W", "Tube", "Headphone"),
            _subcategory("Effect Pedals", "Pedal", "Delay", "Reverb", "Overdrive", "Looper"),
            _subcategory("Microphones", "Microphone", "Condenser", "Dynamic", "Ribbon", "USB"),
            _subcategory("Audio Interfaces", "Audio Interface", "2-In", "4-In", "8-In", "Mobile"),
        ),
        ("Tonewright", "Echolark", "Fretsong", "Bassmere", "Ambertone", "Resonar"),
        ("Roadhouse", "Traveler", "Vintage Sunburst", "Student", "Concert", "Sparkle"),
        ("bedroom recording", "the stage", "practice at night", "songwriters"),
    ),
    Department(
        "Art & Craft",
        (
            _subcategory("Sketchbooks", "Sketchbook", "A4", "A3", "Spiral", "Toned"),
            _subcategory("Pencils", "Pencil Set", "12-Piece", "24-Piece", "Graphite", "Charcoal"),
            _subcategory("Watercolors", "Watercolor Set", "Pan", "Tube", "Half-Pan", "Gouache"),
            _subcategory("Brushes", "Brush Set", "Round", "Angled", "Mop", "Liner"),
            _subcategory("Easels", "Easel", "Table", "Field", "H-Frame", "A-Frame"),
            _subcategory("Frames", "Picture Frame", "8x10", "A4-Size", "Floating", "Gallery"),
        ),
        ("Inkberry", "Palettown", "Quillmoor", "Sablecrest", "Ochre House", "Graphia"),
        ("Workshop", "Plein-Air", "Atelier", "Beginner", "Master", "Rainbow"),
        ("life drawing", "urban sketching", "school classes", "gifts"),
    ),
)
