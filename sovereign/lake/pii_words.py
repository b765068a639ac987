"""Words beside a number that say what it is, in some twenty languages; `*` stands for the rest of a word."""

from __future__ import annotations

PHONE = """
tel tél telefon* teléfono* telefone* téléphon* telephone* telefax faks* phone* mobil* mob móvil* movil celular* cell
cellulare handy* fax* call* dial* hotline* sms whatsapp gsm anruf* ruf rufen rufnummer durchwahl appel* joindre
portable numéro.vert llam* chiam* recapito ligue* telemóvel contacto contact kontakt reach puhelin* puh soita*
telefoon* bel bellen тел телефон* моб мобильн* звон* позвон* факс* zadzwoń* dzwoń* dzwonić kom komórk* infolini* tlf
ring* volat volejte
"""
"""Before a phone number."""
PHONE_ANYWHERE = """
电话 電話 手机 手機 携帯 传真 傳真 拨打 致电 热线 联系方式 ファクス
ファックス 連絡先 問い合わせ 전화 휴대폰 팩스 연락처 هاتف
الهاتف جوال
تلفون تليفون فاكس اتصل
الاتصال موبايل تلفن موبایل फोन फ़ोन मोबाइल दूरभाष फैक्स सम्पर्क संपर्क טלפון נייד פקס ☎ ☏
✆ ℡ 📞 📱
"""
"""The same in scripts that do not separate words, or that attach prefixes to them."""

SECTION = """
section* sections? sect sec chapter* chap appendix clause paragraph* rule abschnitt* abschn kapitel* kap ziffer*
ziff anhang art articles? artikel* artículos? articolo articoli artigos? artykuł* abs absatz absätze chapitres?
annexe sections? sección secciones capítulos? apartado capitol[oi] sezion[ei] secção seção seções paragraf*
rozdział* sekcj* punkt* pkt sectie hoofdstuk* paragrafen раздел* глав* пункт* стать* ст прил* fig figures? abb
abbildung* abbildungen tab tabelle* table tables tableau tabla tabella tabela рис* табл* versions? version* versión
versiones versão versões versione versioni wersj* versi[eo]* ver v vers версии верси* releases? rel rev revision
update upgrade* build patch kernel linux debian ausgabe éditions? firmware driver treiber package paket* oid isbn*
issn* doi pmid arxiv rfc iso din ean az aktenzeichen pages? pp p seiten? s стр págs? pág páginas? pagin[ae] pag str
strony celex ecli bgbl
"""
"""Before a section, version, page, figure, book or law."""
SECTION_ANYWHERE = """
§ ¶ 第 章节 章節 版本 版本号 バージョン 版 図 表 مادة فصل قسم إصدار نسخة बाब अनुच्छेद धारा अध्याय संस्करण 제
버전 판
"""
"""The same in scripts that do not separate words, or that attach prefixes to them."""

IP = """
ipv?4? ips address* adress* adres* direcci* indirizz* endereço* osoite* адрес* хост* сервер* hosts? hostname server*
serveur* servidor* serwer* palvelin* nameserver* dns resolver* ping* traceroute whois subnet* netmask gateway
router* proxy firewall inet client* port ports ssh telnet login sshd iptables route nmap netz* network* réseau red
rete rede сет* sieć sieci verkko* http https ftp connect*
"""
"""Before an IP address."""
IP_ANYWHERE = """
地址 服务器 主机 网关 アドレス サーバ ホスト عنوان العنوان خادم الخادم पता सर्वर 주소 서버 网络
"""
"""The same in scripts that do not separate words, or that attach prefixes to them."""
