/* Commits, second copies, retention, twins, backup, prune and sweep, over a store that has only exclusive creation,
   put-new, list and delete. No lock is trusted, so none is here. Whoever takes a step may sleep for ever before the
   next one (that is how a process dies, too). README.md says what each switch and mutant is for.

   A commit c (a root) has: its generation gen, the commits among its ancestors anc (itself included), the packs that
   its index names idx, those that it needs refs, pruned_at pa. All sets are bits.
   head[g] is 0, a commit + 1, or HALF (it doesn't open). roots is the set of commits that have their second copy.
   A pack is a pair: ex is the set of firsts, tw of twins. Pack 0 is named and needed by nobody; a backup wants to
   reuse its blobs. Pack 1 is needed by an old session.
   All but one step in the model is one request to the store; what a process knows from before may be old. */

#ifndef BACKUPS
#define BACKUPS 2
#endif
#ifndef PRUNES
#define PRUNES 1
#endif
#ifndef TRIES
#define TRIES 2            /* commits that a backup tries */
#endif
#ifndef KEEP
#define KEEP 1             /* heads that retention leaves: few, so that a short sleep is past it */
#endif
#define N 9                /* generations 1 to N-1 */
#define NC 8               /* commits */
#define NP 8               /* packs */
#define HALF 255
#define bit(x) (1<<(x))

byte head[N];
byte roots, rhalf;         /* rhalf: generations with a copy of a half head in roots/ */
byte gen[NC], anc[NC], idx[NC], refs[NC], pa[NC];
byte nextc = 1;
byte ex = 3, tw = 3, pgen[NP], nextp = 2;
byte acked = 1;
byte busy = 0;             /* writers between two steps that a loss of a directory must not part */
bit lost = 0;              /* one of a pair was lost */

hidden byte i_, j_, k_, cand_, h_;
hidden byte v_;

#ifdef ADOPTALL
#define YOUNG true
#else
#define YOUNG (pgen[2] >= pa[b])
#endif

/* cand_: the commits that opening takes: of the highest generation, those in roots/, else the one in head/.
   h_: the highest name, whether it opens or not. */
inline look() {
  i_ = N - 1; h_ = 0; cand_ = 0;
  do
  :: i_ > 0 && cand_ == 0 ->
     j_ = 0;
     do :: j_ < NC -> if :: (roots & bit(j_)) && gen[j_] == i_ -> cand_ = cand_ | bit(j_) :: else fi; j_ = j_ + 1 :: else -> break od;
#ifdef HEADFIRST
     if :: head[i_] && head[i_] != HALF -> cand_ = bit(head[i_] - 1) :: else fi;
#endif
     if :: cand_ == 0 && head[i_] && head[i_] != HALF -> cand_ = bit(head[i_] - 1) :: else fi;
     if :: h_ == 0 && (cand_ || head[i_] || (rhalf & bit(i_))) -> h_ = i_ :: else fi;
     i_ = i_ - 1
  :: else -> break
  od;
  i_ = 0; j_ = 0
}

/* The properties, looked at after each change. (1) all acknowledged commits are among the ancestors of what opening
   takes; (2) what it needs is there: both of each pair while none was lost, (3) one of each pair after that. */
inline verify() {
  look();
  assert(cand_);
  j_ = 0;
  do
  :: j_ < NC ->
     if
     :: cand_ & bit(j_) ->
        assert((acked & ~anc[j_] & 255) == 0);
        assert((refs[j_] & ~(ex | tw) & 255) == 0);
        assert(lost || (refs[j_] & ~(ex & tw) & 255) == 0)
     :: else
     fi;
     j_ = j_ + 1
  :: else -> break
  od;
  j_ = 0; cand_ = 0; h_ = 0
}

/* Reads the state to build on: t, and the number n that its commit will have. If t stands only in head/, its second
   copy is made up first, and the listing done again. */
inline state(T, NUM) {
  do
  :: atomic {
       d_step {
         look(); T = 0;
         do :: !(cand_ & bit(T)) -> T = T + 1 :: else -> break od;
         NUM = h_ + 1;
#ifdef ROOTSNUM
         NUM = N - 1; do :: NUM > 0 && head[NUM] == 0 -> NUM = NUM - 1 :: else -> break od; NUM = NUM + 1;
#endif
         cand_ = 0; h_ = 0
       }
#ifdef FLAKY
       if
       :: d_step { gen[T] > 1 -> T = 0 }   /* the newer ones couldn't be read just now */
       :: true
       fi;
#endif
#ifdef NOBASE
       break
#else
       if
       :: roots & bit(T) -> break
       :: else -> busy = busy + 1
       fi
#endif
     }
#ifndef NOBASE
     if
     :: d_step { roots = roots | bit(T); busy = busy - 1; verify() }
     :: atomic { busy = busy - 1; goto dead }
     fi
#endif
  od
}

/* Creates head/<n>, exclusively: me is the commit, or 0 if that was there. */
inline create(B, NUM, ME, IDX, REFS, PA) {
  atomic {
#ifdef LATE
    d_step { look(); NUM = h_ + 1; cand_ = 0; h_ = 0 }
#endif
    if
    :: NUM >= N || nextc >= NC -> goto dead
    :: else
    fi;
    if
    :: head[NUM] -> ME = 0
    :: !head[NUM] ->
       d_step {
         assert(NUM > gen[B]);
         ME = nextc; nextc = nextc + 1;
         gen[ME] = NUM; anc[ME] = anc[B] | bit(ME); idx[ME] = IDX; refs[ME] = REFS; pa[ME] = PA;
#ifdef SLOWHALF
         head[NUM] = HALF;
#else
         head[NUM] = ME + 1;
#endif
         busy = busy + 1; verify()
       }
#ifdef HALVES
    :: !head[NUM] -> d_step { head[NUM] = HALF; verify() } goto dead
#endif
    fi
  }
#ifdef SLOWHALF
  ;
  if
  :: ME -> d_step { head[NUM] == HALF -> head[NUM] = ME + 1; verify() }
  :: else
  fi
#endif
}

/* Lists again: void_ if there is a higher name that isn't known to descend from me, or another root of its number. */
inline again(NUM, ME, VOID) {
  atomic {
    d_step {
      v_ = false;
#ifndef BLIND
      i_ = NUM + 1;
      do
      :: i_ < N ->
#ifdef OPENONLY
         if :: head[i_] && head[i_] != HALF && !(anc[head[i_] - 1] & bit(ME)) -> v_ = true :: else fi;
#else
         if :: head[i_] && (head[i_] == HALF || !(anc[head[i_] - 1] & bit(ME))) -> v_ = true :: else fi;
         if :: rhalf & bit(i_) -> v_ = true :: else fi;
#endif
         i_ = i_ + 1
      :: else -> break
      od;
#ifndef HEADONLY
      j_ = 0;
      do
      :: j_ < NC -> if :: (roots & bit(j_)) && j_ != ME && gen[j_] >= NUM && !(anc[j_] & bit(ME)) -> v_ = true :: else fi; j_ = j_ + 1
      :: else -> break
      od;
#endif
      i_ = 0; j_ = 0;
#endif
      VOID = v_; v_ = false; if :: VOID -> busy = busy - 1 :: else fi
    }
  }
}

inline second(ME) { d_step { roots = roots | bit(ME); verify() } }
inline acknowledge(ME) { d_step { acked = acked | bit(ME); verify() } }

/* The second copy, then the acknowledgement. */
inline finish(ME) {
#ifdef ACKEARLY
  atomic { acknowledge(ME); busy = busy - 1 }
  second(ME);
#else
  if
  :: atomic { second(ME); busy = busy - 1 }
  :: atomic { busy = busy - 1; goto dead }
  fi;
  acknowledge(ME);
#endif
}

inline newfirst(P, G) { d_step { P = nextp; nextp = nextp + 1; ex = ex | bit(P); pgen[P] = G; verify() } }
inline newtwin(P) { d_step { tw = tw | bit(P); verify() } }

proctype backup() {
  byte b, n, g0, mine, own, me, p, t, tries;
  bool reuse, void_;
  state(b, n);
  g0 = gen[b];
#ifndef NOPACKS
  atomic {
    if
    :: idx[b] & 1 -> reuse = true; mine = 1
    :: else
    fi
  }
  /* Adopts what stands in no index: a single one after its other was made. */
  if
  :: true
  :: atomic { ((ex | tw) & bit(2)) && !(idx[b] & bit(2)) && YOUNG ->
       d_step {
#ifndef ADOPTSINGLE
         ex = ex | bit(2); tw = tw | bit(2);
#endif
         mine = mine | bit(2); own = own | bit(2); verify() } }
  fi;
put:
  if :: nextp >= NP -> goto dead :: else fi;
  newfirst(p, gen[b]);
#ifndef TWINLAST
  newtwin(p);
#endif
  atomic { mine = mine | bit(p); own = own | bit(p) }
#endif
commit:
  create(b, n, me, idx[b] | own, refs[b] | mine, pa[b]);
  if
  :: me == 0
  :: else ->
     again(n, me, void_);
     if
     :: !void_ ->
        finish(me);
#ifdef TWINLAST
        newtwin(p);
#endif
        goto dead
     :: else ->
        /* it takes its void head away, or can't */
        if
        :: d_step { head[n] == me + 1 -> head[n] = 0; verify() }
        :: true
        fi
     fi
  fi;
  atomic { tries = tries + 1; void_ = false; me = 0; if :: tries >= TRIES -> goto dead :: else fi }
  state(t, n);
  atomic {
#ifndef NAIVE
#ifndef NODESCENT
    if :: !(anc[t] & bit(b)) -> goto dead :: else fi;
#endif
    b = t; t = 0;
#ifdef LISTONLY
    if :: own & ~ex & 255 -> goto dead :: else fi;
#else
    if :: g0 < pa[b] -> goto dead :: else fi;
#endif
#ifndef NOPACKS
    if :: reuse && !(idx[b] & 1) -> reuse = false; mine = mine & ~1; goto put :: else fi;
#endif
#else
    b = t; t = 0;
#endif
    goto commit
  }
dead: skip
}

#ifdef TWINDELFIRST
#define DEL1 ex
#define DEL2 tw
#else
#define DEL1 tw
#define DEL2 ex
#endif
/* Deletes what the index of commit c doesn't name and is older than it. */
inline sweep(C, I) {
  I = 0;
  do
  :: I < nextp ->
     if
     :: ((ex | tw) & bit(I)) && !(idx[C] & bit(I)) && pgen[I] < gen[C] ->
        d_step { DEL1 = DEL1 & ~bit(I); verify() }
        d_step { DEL2 = DEL2 & ~bit(I); verify() }
#ifdef TWINUNNAMED
     :: (tw & bit(I)) && (idx[C] & bit(I)) && pgen[I] < gen[C] -> d_step { tw = tw & ~bit(I); verify() }
#endif
     :: else
     fi;
     I = I + 1
  :: else -> break
  od
}

proctype prune() {
  byte b, n, p, me, want;
  bool void_;
  state(b, n);
#ifdef DELFIRST
  p = 0;
  do
  :: p < 2 -> if :: d_step { !(refs[b] & bit(p)) && (ex & bit(p)) -> ex = ex & ~bit(p); tw = tw & ~bit(p); verify() } :: else fi; p = p + 1
  :: else -> break
  od;
#endif
  want = refs[b];
  /* it may make the blobs of pack 1 a new pack */
  if
  :: atomic { nextp < NP && (want & 2) -> newfirst(p, gen[b]) }
     newtwin(p);
     atomic { want = (want & ~2) | bit(p) }
  :: true
  fi;
  p = 0;
  create(b, n, me, want, want, n);
  if :: me == 0 -> goto dead :: else fi;
  again(n, me, void_);
  if
  :: void_ -> if :: d_step { head[n] == me + 1 -> head[n] = 0; verify() } :: true fi; goto dead
  :: else
  fi;
#ifdef SWEEPEARLY
  sweep(me, p);
#endif
  finish(me);
#ifndef SWEEPEARLY
  sweep(me, p);
#endif
dead: skip
}

#define whole(g) (head[g] && head[g] != HALF)
#ifdef HEADGOES
#define OLD(g) whole(g)
#else
#define OLD(g) (whole(g) && (roots & bit(head[g] - 1)))
#endif
/* Anybody who takes a lock, at any time: makes up second copies, takes old heads away. */
proctype keeper() {
  byte g;
  do
  :: atomic {
       select(g : 1 .. 7);
       if
       :: d_step {
            whole(g) && !(roots & bit(head[g] - 1)) -> j_ = 0; v_ = 0;
#ifndef MAKEALL
            if :: rhalf & bit(g) -> v_ = 1 :: else fi;
            do :: j_ < NC -> if :: (roots & bit(j_)) && gen[j_] == g -> v_ = 1 :: else fi; j_ = j_ + 1 :: else -> break od;
#endif
            if :: v_ == 0 -> roots = roots | bit(head[g] - 1) :: else fi; j_ = 0; v_ = 0; verify() }
#if defined(HALVES) || defined(JUNK)
       :: d_step { head[g] == HALF -> rhalf = rhalf | bit(g); verify() }
#endif
       :: d_step {
            OLD(g) || (head[g] == HALF && (rhalf & bit(g))) ->
            i_ = g + 1; k_ = 0;
            do :: i_ < N -> if :: head[i_] -> k_ = k_ + 1 :: else fi; i_ = i_ + 1 :: else -> break od;
            if :: k_ >= KEEP -> head[g] = 0 :: else fi; i_ = 0; k_ = 0; verify() }
       :: else
       fi;
       g = 0
     }
  od
}

#ifndef NOLOSS
/* head/ or roots/ is lost, once, when nobody stands between two steps that it must not part. */
proctype loss() {
  if
  :: d_step { busy == 0 ->
     i_ = 0; do :: i_ < N -> head[i_] = 0; i_ = i_ + 1 :: else -> break od; i_ = 0; verify() }
  :: d_step { busy == 0 -> roots = 0; rhalf = 0; verify() }
  fi
}
#endif

#ifndef NOPAIRLOSS
/* One of a pair is lost. */
proctype pairloss() {
  byte i;
  atomic {
    select(i : 0 .. 3);
    if
    :: d_step { ex & bit(i) -> lost = 1; ex = ex & ~bit(i); verify() }
    :: d_step { tw & bit(i) -> lost = 1; tw = tw & ~bit(i); verify() }
    :: else
    fi; i = 0
  }
}
#endif

#ifdef JUNK
/* Two crashes in a row, or damage: two heads that don't open above all. */
proctype junk() {
  d_step { look(); head[h_ + 1] = HALF; head[h_ + 2] = HALF; cand_ = 0; h_ = 0; verify() }
}
#endif

#ifdef SWEEPNOSWAP
#ifdef SWEEPOLD
#define STALE (pgen[i] < pa[b])
#else
#define STALE true
#endif
/* Removes what no index names, without a commit; SWEEPOLD: only what is older than the last prune. */
proctype sweeper() {
  byte b, n, i;
  state(b, n);
  do
  :: i < NP ->
     if :: d_step { ((ex | tw) & bit(i)) && !(idx[b] & bit(i)) && STALE -> ex = ex & ~bit(i); tw = tw & ~bit(i); verify() } :: else fi;
     i = i + 1
  :: else -> break
  od;
dead: skip
}
#endif

init {
  atomic {
    head[1] = 1; roots = 1; gen[0] = 1; anc[0] = 1; idx[0] = 3; refs[0] = 2;
    pgen[0] = 1; pgen[1] = 1;
    byte k = 0;
    do :: k < BACKUPS -> run backup(); k = k + 1 :: else -> break od;
    k = 0;
    do :: k < PRUNES -> run prune(); k = k + 1 :: else -> break od;
    k = 0;
    run keeper();
#ifdef JUNK
    run junk();
#endif
#ifndef NOLOSS
    run loss();
#endif
#ifndef NOPAIRLOSS
    run pairloss();
#endif
#ifdef SWEEPNOSWAP
    run sweeper();
#endif
    skip
  }
}
