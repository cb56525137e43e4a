"""Word lists and patterns behind the weak labels: data only, written for this project.

A list is a string of words parted by blanks. ``word`` also matches its plural in -s; ``stem*`` matches any ending;
``two_words`` match with a blank between them. Lists are short on purpose: the probe generalises, the list only points.
"""

from __future__ import annotations

SUBJECTS: dict[str, str] = {
    "software": """software code coding programmer programming python java javascript css sql api server client
        browser website database algorithm function* method argument parameter module byte string integer exception
        thread compile* debug* bug app linux unix windows_xp microsoft installer install* download* upload* login
        password file folder directory user_interface encrypt* socket certificate update backup operating_system
        firmware driver computer pc laptop usb ios android script syntax runtime iterator variable callback json xml""",
    "device": """camera phone cellphone player battery batteries screen lens zoom ipod mp3 dvd router headphone
        earphone keyboard laptop tablet charger iphone samsung nokia canon nikon gadget display speaker cable remote
        button flash megapixel pixel wireless bluetooth usb adapter monitor printer hardware device motherboard xbox
        playstation console hard_drive firmware memory_card viewfinder lcd sd_card""",
    "health": """patient disease clinical cancer tumor tumour infection infected therapy treatment drug dose medical
        medicine hospital doctor nurse surgery surgical diagnos* symptom syndrome virus vaccine vaccin* mortality
        cardiovascular diabetes diabetic insulin aids hiv illness sick headache injury injured wound pain fever flu
        health healthy obesity pregnan* psychiatr* depression anxiety tuberculosis malaria asthma stroke
        heart_attack blood pressure physician smoking smoker cholesterol chronic autism medication pill""",
    "politics": """government president congress senate senator minister parliament election elections electoral
        vote voter voting republican democrat democratic party campaign policy policies political politic*
        politician white_house governor mayor clinton bush reagan obama trump putin diplomat* treaty federal
        legislat* reform constitution* administration conservative liberal communist socialist regime united_nations
        referendum citizen""",
    "law": """court judge jury trial lawyer attorney legal illegal* law laws lawsuit sued prosecut* defendant
        convict* guilty verdict sentence prison jail police arrest* crime criminal murder* robbery suspect
        supreme_court justice appeal* plaintiff statute rights evidence testif* testimony felony charged fraud
        penalty victim shooting shot gunman cop""",
    "film": """film movie cinema cinematic director actor actress screenplay screenwriter hollywood scene plot
        comedy thriller drama documentary sequel script cast starring filmmaker filmmaking animated animation horror
        oscar trailer character audience hbo netflix episode tv_series television season_finale premiere
        romantic_comedy blockbuster""",
    "music": """music musical song songs album singer band guitar guitarist piano lyric concert tour melody vocal
        vocals rock jazz rap rapper hip_hop pop single chorus drummer orchestra opera symphony dj remix playlist
        track tracks billboard record_label grammy tune beyonce bieber spotify itunes soundtrack listening karaoke
        violin""",
    "sport": """game games team teams player coach season league championship tournament football soccer basketball
        baseball cricket tennis golf hockey rugby nfl nba ncaa match goal goals scored score quarterback touchdown
        inning yankees lakers olympic olympics olympian athlete stadium cup fifa playoff playoffs race racing boxing
        ufc win victory defeat defeated fans_cheered pitcher referee medal sprint swim swimming halftime offense
        defense""",
    "geography": """river lake mountain mountains island islands coast coastal city cities town village north south
        east west northern southern eastern western region county state province country border valley ocean sea bay
        beach highway road street avenue district capital africa* asia* europe* america* australia* california texas
        florida michigan jersey london paris china india japan england britain canada mexico ireland iraq israel
        kilometer kilometre miles km located tropical downtown airport park bridge harbor harbour""",
    "money": """money dollar dollars price prices priced pay paid paying cost costs expensive cheap cheaper buy
        bought buying sell sold sale bank banks banking budget tax taxes fund funds funding market stock stocks
        investor invest* economy economic financial finance profit debt loan credit cash income salary wage wages
        rent purchase* refund worth bargain cent cents afford* billion spend spending bonus sponsor* discount""",
    "food": """food eat eating ate dinner lunch breakfast restaurant cook cooking cooked chef recipe meal pizza
        chicken beef pork meat cheese bread cake chocolate coffee tea beer wine drink drinking drank drunk sugar
        salt fruit apple vegetable salad soup sandwich burger fries kitchen hungry delicious tasty snack milk egg
        eggs diet dish bacon cookie candy dessert vodka cocktail thanksgiving starbucks mcdonalds edible potato rice
        butter feast""",
    "family": """mother father mom dad mum son sons daughter daughters sister brother wife husband parent parents
        child children kid kids baby family families grandmother grandfather grandma grandpa uncle aunt cousin
        married marriage wedding divorce marry girlfriend boyfriend niece nephew toddler infant newborn sibling""",
    "education": """school schools college university student students teacher teachers professor class classes
        classroom education educational homework exam exams graduate graduated graduation campus degree semester
        study studying academic curriculum tuition kindergarten textbook lecture scholarship math teach teaching
        taught learn learning course""",
    "travel": """travel* trip flight flights fly airport airline airlines plane aircraft train trains bus station
        car cars drive driving driver traffic highway road route vehicle vehicles truck hotel vacation tourist
        tourism passenger ride bike bicycle motorcycle ticket taxi cab subway journey cruise boat engine parking
        freeway interchange""",
    "arts": """book books novel author writer writers poet poem poetry painting painter artist artists art museum
        gallery sculpture literary literature fiction fantasy theater theatre play plays broadway dance dancer
        fashion designer design photograph photography photographer magazine publisher published story stories essay
        exhibition drawing""",
}

POSITIVE = """good great excellent amazing awesome wonderful fantastic perfect perfectly love loved loves lovely
    best better nice beautiful beautifully happy happily enjoy enjoyed enjoyable enjoys fun funny brilliant superb
    delightful delight pleased pleasant pleasure recommend* impressive impressed glad thanks thank fine favorite
    favourite easy reliable elegant charming charm smart witty hilarious thrilling exciting excited entertaining
    worthy success successful successfully win won winner triumph* honest hope hopeful bless blessed cute sweet cool
    yay haha lol :) :d ;) rich fresh compelling warm heartwarming masterpiece gem powerful moving poignant touching
    solid gorgeous stunning satisfying satisf* interesting fascinating terrific outstanding remarkable clever
    inventive proud comfortable joy joyful peace praise* acclaimed improve* benefit* gift fabulous refreshing
    engaging captivating intelligent wow congrat* sleek crisp sturdy graceful generous welcome"""

NEGATIVE = """bad worse worst awful terrible horrible poor poorly hate hated hates boring bored dull stupid dumb
    ugly annoying annoyed annoys disappoint* fail fails failed failure failing broken broke useless waste wasted
    lame weak sad sadly sick pain painful angry wrong problem problems trouble error errors crash* damage* dead
    death die died kill killed killing murder* crime evil cruel fear afraid scared crap shit fuck* damn suck sucks
    sucked worthless lousy pathetic mess messy ridiculous silly bland flat tedious tired lifeless shallow pointless
    predictable cliche cliched clumsy awkward unfunny unpleasant uncomfortable lack lacks lacking miss missing lost
    lose loss losing hurt hurts difficult hard frustrat* complain* complaint defect* defective cheap noisy scratch*
    slow ugh :( :/ cry crying sorry unfortunately unhappy unfair corrupt* fraud guilty victim war disaster* tragedy
    tragic threat* violent violence racist shame hopeless horrid mediocre inept incoherent forgettable insult*
    offensive disgust* nasty gross bitter miserable worry worried dreadful"""

NEGATIONS = """not no never none nothing nobody nowhere neither nor without cannot can't don't doesn't didn't won't
    wouldn't isn't aren't wasn't weren't couldn't shouldn't hasn't haven't hadn't ain't dont doesnt didnt wont isnt
    cant unable hardly barely lack lacks lacking fail fails failed unless"""

MONTHS = """january february march april june july august september october november december jan feb sept oct
    nov dec"""

TIMES = """monday tuesday wednesday thursday friday saturday sunday today tomorrow yesterday tonight morning evening
    afternoon night midnight noon weekend week month year years months weeks day days hour hours minute minutes
    century decade decades annual annually daily weekly o'clock ago recently later earlier during since until"""

NUMBER_WORDS = """one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred
    thousand million billion dozen half third quarter twice double first second percent"""

LANGUAGE: dict[str, str] = {
    "procedural": """how_to step steps step_by_step make_sure be_sure in_order_to press click plug insert select
        install turn_on turn_off set_up instruction* tutorial learn_how can_be_used must_be""",
    "definition": """known_as called named defined definition means meaning refers_to referred_to term terms word
        words phrase name names is_one_of consists_of type_of form_of species_of synonym* acronym abbreviat*
        stands_for literally concept description describe describes""",
    "causal": """because because_of cause causes caused causing due_to result_in resulted_in results_in result_of
        resulting therefore thus hence consequently leads_to led_to leading_to lead_to reason reasons effect_of
        effects_of affects affected as_a_result trigger* induce* contribut* owing_to thanks_to prevents prevented
        explains why make_it makes_it responsible_for blame blamed consequence consequences cuz cos impact damage
        damaged""",
    "comparison": """than compared compare comparison comparable versus vs similar similarly unlike whereas equally
        as_well_as same_as different_from difference differ* larger smaller higher lower greater better worse faster
        stronger cheaper older newer rather_than superior inferior more_than less_than""",
    "conversational": """lol haha hahaha omg wtf lmao btw hey hi hello thx thanks pls please yeah yea yep nah nope
        ugh wow dude bro gonna wanna gotta ya yay ima cuz :) :d :( ;) <3 xd""",
    "person": """he she his her him himself herself who man woman men women mr mrs ms dr sir lord king queen prince
        princess born he's she's lady gentleman guy actor writer boy girl died son daughter wife husband career""",
}
