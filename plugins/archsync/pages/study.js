/* One study: what the platform says, what each archive holds, and what can be done. */

import { C, Code, Facts, Go, h, Icon, Loading, Moment, Note, Nothing, Pager, Pill, Rows, Section, StatusPill, toast, toastProblem, Trouble, useEffect, useRights, useState, Whole, WRONG } from "./kit.js";
import { post } from "./api.js";
import { About, Done, JobLink, StudyLink, When } from "./job_parts.js";
import { useBusy, useLive } from "./live.js";
import { useRoute } from "./route.js";
import { count, formatCount, formatMoment, words } from "./words.js";

const Find = ({ onFound }) => {
  const [text, setText] = useState("");
  const [found, setFound] = useState(null);
  const [search, isBusy] = useBusy(async () => {
    try {
      const { studies } = await post("search", { text: text.trim() });
      setFound(studies);
      if (studies.length === 1) onFound(studies[0].study_instance_uid);
    } catch (problem) {
      toastProblem(problem);
    }
  });
  return h(C.Box, { mb: 4 },
    h(C.Flex, { as: "form", gap: 2, maxW: "46rem", role: "search", onSubmit: (event) => { event.preventDefault(); if (text.trim()) search(); } },
      h(C.Input, { "aria-label": "Accession number or Study Instance UID", autoComplete: "off", onChange: (e) => setText(e.target.value), placeholder: "Accession number or Study Instance UID", size: "sm", value: text }),
      h(C.Button, { colorPalette: "brand", loading: isBusy, size: "sm", type: "submit" }, h(Icon, { name: "search" }), "Find")),
    found?.length === 0 && h(C.Text, { color: WRONG, fontSize: "sm", mt: 1, role: "alert" }, "No study has this accession number or Study Instance UID."),
    found?.length > 1 && h(C.Stack, { gap: 1, mt: 2 }, found.map((study) =>
      h(Go, { key: study.study_instance_uid, fontSize: "sm", view: { view: "studies", study: study.study_instance_uid } }, study.label ?? study.study_instance_uid))));
};

// Who the patient is: shown only when somebody with the right asks, which is audited.

const PATIENT = { name: "Name", patient_id: "MRN", issuer_of_patient_id: "Issuer of the MRN", birth_date: "Birth date", sex: "Sex", accession_number: "Accession number" };

const Patient = ({ uid }) => {
  const rights = useRights();
  const [patient, setPatient] = useState(null);
  const [reveal, isBusy] = useBusy(async () => {
    try {
      setPatient(await post(`studies/${uid}/patient`, { phi: true }));
    } catch (problem) {
      toastProblem(problem);
    }
  });
  if (!rights.may("patient_data")) return null;
  return h(Section, { title: "Patient", actions: h(C.Button, { loading: isBusy, onClick: () => (patient ? setPatient(null) : reveal()), size: "xs", variant: "outline" }, h(Icon, { name: "eye" }), patient ? "Hide" : "Show patient data") },
    patient
      ? h(Facts, { rows: Object.entries(PATIENT).map(([name, label]) => [label, patient[name]]) })
      : h(C.Text, { color: "fg.muted", fontSize: "sm" }, "Hidden. That you looked is recorded."));
};

// What can be done

const Hold = ({ uid, onHold, onDone }) => {
  const [isOpen, setIsOpen] = useState(false);
  const [reason, setReason] = useState("");
  const [run, isBusy] = useBusy(async () => {
    try {
      await post(`studies/${uid}/${onHold ? "release" : "hold"}`, onHold ? {} : { reason: reason.trim() });
      toast("success", onHold ? "The study is released" : "The study is on hold: nothing of it is sent");
      setIsOpen(false);
      setReason("");
    } catch (problem) {
      toastProblem(problem);
    }
    onDone();
  });
  if (onHold) return h(C.Button, { loading: isBusy, onClick: run, size: "sm", variant: "outline" }, "Release");
  return h(C.Box, null,
    h(C.Button, { onClick: () => setIsOpen(true), size: "sm", variant: "outline" }, h(Icon, { name: "pause" }), "Hold …"),
    isOpen && h(C.Dialog.Root, { open: true, onOpenChange: ({ open }) => setIsOpen(open) },
      h(C.Portal, null, h(C.Dialog.Backdrop), h(C.Dialog.Positioner, null, h(C.Dialog.Content, null,
        h(C.Dialog.Header, null, h(C.Dialog.Title, null, "Hold this study?")),
        h(C.Dialog.Body, null,
          h(C.Text, { mb: 3 }, "Nothing of it is sent or withdrawn until it is released."),
          h(C.Field.Root, { required: true }, h(C.Field.Label, null, "Why?", h(C.Field.RequiredIndicator)), h(C.Input, { autoFocus: true, maxLength: 500, onChange: (e) => setReason(e.target.value), value: reason }),
            h(C.Field.HelperText, null, "Write no patient data here."))),
        h(C.Dialog.Footer, null,
          h(C.Button, { onClick: () => setIsOpen(false), variant: "outline" }, "Back"),
          h(C.Button, { colorPalette: "brand", disabled: !reason.trim(), loading: isBusy, onClick: run }, "Hold")))))));
};

const Sentences = ({ archives }) =>
  h(C.Stack, { gap: 3 }, archives.map(({ destination, sentences }) =>
    h(C.Box, { key: destination, fontSize: "sm" },
      h("b", null, destination),
      h(C.Box, { as: "ul", pl: 5 }, sentences.map((sentence, i) => h(C.Box, { as: "li", key: i, overflowWrap: "anywhere" }, sentence))))));

/** First what would happen, then the button that makes it so. */
const PlanNow = ({ uid, onDone }) => {
  const [plan, setPlan] = useState(null);
  const [look, isLooking] = useBusy(async () => {
    try {
      setPlan(await post(`studies/${uid}/plan`));
    } catch (problem) {
      toastProblem(problem);
    }
  });
  const [run, isBusy] = useBusy(async () => {
    try {
      const done = await post(`studies/${uid}/plan-now`);
      if (done.problem) toast("warning", "The study could not be planned", done.problem);
      else toast("success", done.jobs_made + done.jobs_refreshed ? `Planned: ${count(done.jobs_made, "new job")}, ${formatCount(done.jobs_refreshed)} brought up to date` : "Planned: nothing is to be done");
      setPlan(null);
    } catch (problem) {
      toastProblem(problem);
    }
    onDone();
  });
  return h(C.Box, null,
    h(C.Button, { loading: isLooking, onClick: look, size: "sm", variant: "outline" }, "Plan now …"),
    plan && h(C.Dialog.Root, { open: true, size: "lg", scrollBehavior: "inside", onOpenChange: ({ open }) => !open && setPlan(null) },
      h(C.Portal, null, h(C.Dialog.Backdrop), h(C.Dialog.Positioner, null, h(C.Dialog.Content, null,
        h(C.Dialog.Header, null, h(C.Dialog.Title, null, "What planning would do")),
        h(C.Dialog.Body, null, plan.problem ?? (plan.archives.length ? h(Sentences, { archives: plan.archives }) : "There is no destination.")),
        h(C.Dialog.Footer, null,
          h(C.Button, { onClick: () => setPlan(null), variant: "outline" }, "Back"),
          h(C.Button, { colorPalette: "brand", loading: isBusy, onClick: run }, "Plan now")))))));
};

const Push = ({ uid, archives, onDone }) => {
  const [chosen, setChosen] = useState(null);
  const [run, isBusy] = useBusy(async () => {
    try {
      const answer = await post(`studies/${uid}/push`, { destinations: chosen });
      toast(answer.jobs.length ? "success" : "info", answer.jobs.length ? `Asked for: ${answer.jobs.map((id) => `job ${id}`).join(", ")}` : "No job was made", answer.sentences.join(" "));
      setChosen(null);
    } catch (problem) {
      toastProblem(problem);
    }
    onDone();
  });
  return h(C.Box, null,
    h(C.Button, { disabled: archives.length === 0, onClick: () => setChosen(archives.map((archive) => archive.destination)), size: "sm", variant: "outline" }, h(Icon, { name: "again" }), "Push again …"),
    chosen && h(C.Dialog.Root, { open: true, onOpenChange: ({ open }) => !open && setChosen(null) },
      h(C.Portal, null, h(C.Dialog.Backdrop), h(C.Dialog.Positioner, null, h(C.Dialog.Content, null,
        h(C.Dialog.Header, null, h(C.Dialog.Title, null, "Push this study again?")),
        h(C.Dialog.Body, null,
          h(C.Text, { mb: 3 }, "All its images are sent to these archives, also those they acknowledged already."),
          h(C.Stack, null, archives.map(({ destination }) =>
            h(C.Checkbox.Root, { key: destination, checked: chosen.includes(destination), onCheckedChange: (e) => setChosen(e.checked ? [...chosen, destination] : chosen.filter((name) => name !== destination)) },
              h(C.Checkbox.HiddenInput), h(C.Checkbox.Control), h(C.Checkbox.Label, null, destination))))),
        h(C.Dialog.Footer, null,
          h(C.Button, { onClick: () => setChosen(null), variant: "outline" }, "Back"),
          h(C.Button, { colorPalette: "brand", disabled: chosen.length === 0, loading: isBusy, onClick: run }, "Push again")))))));
};

// What is where

const Differences = ({ archive }) =>
  archive.is_in_step
    ? h(Pill, { palette: "success", icon: "check", fontSize: "xs", py: 0.5 }, "As the platform says")
    : h(C.Box, { as: "ul", fontSize: "sm", listStyleType: "none" }, archive.differences.map((sentence, i) => h(C.Box, { as: "li", key: i, overflowWrap: "anywhere" }, sentence)));

const Archives = ({ archives }) =>
  h(Rows, { label: "Archives", rows: archives, keyOf: (a) => a.destination, empty: h(Nothing, { title: "No archive takes this study" }), columns: [
    { title: "Archive", cell: (a) => h(Go, { view: { view: "destination", name: a.destination }, fontWeight: "bold" }, a.destination) },
    { title: "Archived", cell: (a) => (a.archived_at ? h(Moment, { at: a.archived_at }) : "not yet"), from: "md" },
    { title: "Holds", cell: (a) => formatCount(a.held), props: { textAlign: "end" } },
    { title: "Missing", cell: (a) => formatCount(a.missing), props: { textAlign: "end" } },
    { title: "Withdrawn", cell: (a) => formatCount(a.rejected), from: "lg", props: { textAlign: "end" } },
    { title: "To withdraw", cell: (a) => formatCount(a.to_withdraw), from: "md", props: { textAlign: "end" } },
    { title: "Differences", cell: (a) => h(Differences, { archive: a }) },
  ] });

const StudyJobs = ({ jobs, uid }) =>
  h(C.Box, null,
    h(Rows, { label: "Jobs of this study", rows: jobs, keyOf: (job) => job.job_id, empty: h(Nothing, { title: "No job was made for it" }), columns: [
      { title: "Job", cell: (job) => h(JobLink, { job }) },
      { title: "What and why", cell: (job) => h(About, { job }), props: { w: "45%" } },
      { title: "Destination", cell: (job) => job.destination, from: "lg" },
      { title: "Status", cell: (job) => h(StatusPill, { status: job.status }) },
      { title: "Progress", cell: (job) => h(Done, { job }), from: "lg" },
      { title: "When", cell: (job) => h(When, { job }), from: "md" },
    ] }),
    h(Go, { fontSize: "sm", view: { view: "jobs", study: uid } }, "All its jobs in the list"));

const Found = ({ live, study }) => {
  const rights = useRights();
  const uid = study.study_instance_uid;
  return h(C.Box, null,
    h(C.Flex, { align: "center", gap: 3, justify: "space-between", wrap: "wrap" },
      h(C.HStack, { gap: 3, minW: 0, wrap: "wrap" },
        h(C.Heading, { as: "h1", size: "md", overflowWrap: "anywhere" }, "Study ", h(Code, null, uid)),
        study.on_hold && h(Pill, { palette: "up_for_retry", icon: "pause" }, "On hold")),
      rights.may("operate") && h(C.HStack, { gap: 2, wrap: "wrap" },
        h(PlanNow, { uid, onDone: live.refresh }),
        h(Push, { uid, archives: study.archives, onDone: live.refresh }),
        h(Hold, { uid, onHold: study.on_hold, onDone: live.refresh }))),
    study.holds.length > 0 && h(Note, { mt: 3, tone: "warning", title: "On hold: nothing of it is sent" },
      study.holds.map((hold, i) => h("div", { key: i }, [hold.reason, hold.held_by && `by ${hold.held_by}`, hold.held_at && `since ${formatMoment(hold.held_at)}`].filter(Boolean).join(" · ")))),
    study.problem && h(Note, { mt: 3, tone: "warning", title: "Its rows on the platform can't be used" }, study.problem),
    !study.is_on_platform && h(Note, { mt: 3, title: "The platform does not have this study any more" }, "What archives still hold of it is to be withdrawn."),
    h(Section, { title: "What the platform says" }, h(Facts, { rows: [
      ["Exam status", study.exam_status],
      ["Images", study.instances !== null && formatCount(study.instances)],
      ["Facility", study.facility],
      ["Priority", study.priority && words(String(study.priority).toLowerCase())],
      ["Key on the platform", study.study_key && h(Code, null, study.study_key)],
    ] })),
    h(Patient, { key: uid, uid }),
    h(Section, { title: "What each archive holds" }, h(Archives, { archives: study.archives })),
    h(Section, { title: "Its jobs" }, h(StudyJobs, { jobs: study.jobs, uid })));
};

/** What there is to see before a study is chosen: those that somebody holds back. */
const OnHold = () => {
  const [trail, setTrail] = useState([""]);
  const live = useLive("holds", { cursor: trail.at(-1) }, 5000);
  return h(C.Box, null,
    h(C.Heading, { as: "h1", size: "md", mb: 3 }, "Studies on hold"),
    h(Whole, { of: live, what: "holds" }, (page) => h(C.Box, null,
      h(Rows, { label: "Studies on hold", rows: page.items, keyOf: (hold) => hold.study_instance_uid, empty: h(Nothing, { title: "No study is held back", icon: "pause" }, "Find any study by its accession number or Study Instance UID."), columns: [
        { title: "Study", cell: (hold) => h(StudyLink, { uid: hold.study_instance_uid, isWhole: true }) },
        { title: "Why", cell: (hold) => hold.reason },
        { title: "By", cell: (hold) => hold.held_by },
        { title: "Since", cell: (hold) => h(Moment, { at: hold.held_at }), from: "md" },
      ] }),
      h(Pager, { trail, onTrail: setTrail, next: page.next_cursor }))));
};

export const Study = () => {
  const route = useRoute();
  const uid = route.one("study");
  const live = useLive(uid ? `studies/${encodeURIComponent(uid)}` : null, {}, 3000);
  useEffect(() => {
    document.getElementById("archsync-top").scrollIntoView();
  }, [uid]);
  return h(C.Box, { id: "archsync-top", mb: 8 },
    h(Find, { onFound: (found) => route.go({ view: "studies", study: found }) }),
    !uid ? h(OnHold)
      : live.problem?.status === 404 ? h(Nothing, { title: "Neither platform nor ledger has such a study", icon: "search" }, uid)
        : live.data && live.isFresh ? h(Found, { live, study: live.data })
          : live.problem ? h(Trouble, { problem: live.problem, onRetry: live.refresh }) : h(Loading, { what: "the study" }));
};
